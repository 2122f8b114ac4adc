"""Stores the embeddings of images, and finds similar images by them."""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.embedding import WORDS, Embedding
from proxy.storage.database.media_repository import servable
from proxy.storage.database.tables import media_embeddings, media_files
from proxy.storage.database.transactions import SqlDatabase

MAX_COMPARED = 50_000
"""Images with which one is compared: the newest of its model."""
MAX_SIMILAR = 100
"""Images that a search returns."""
# The bits estimate an angle to about 6 degrees, so more images are compared by their vectors.
_CANDIDATES = 4 * MAX_SIMILAR

_embeddings = media_embeddings.c
_words = [_embeddings[f"word_{at}"] for at in range(WORDS)]


class EmbeddingRepository:
    """Reads embeddings; every method raises DatabaseUnavailable."""

    def __init__(self, database: SqlDatabase) -> None:
        """Use a database that the caller closes."""
        self._database = database

    async def similar(self, media_id: int, *, limit: int) -> Mapping[int, float] | None:
        """Return the similarity by media id, highest first; None if the image has no embedding.

        Only images that can be served, and whose embedding is of the same model, are found. The
        newest `MAX_COMPARED` are compared by their bits in the database, the nearest of them by
        their vectors.
        """
        own = sa.select(media_embeddings).where(_embeddings.media_id == media_id)
        for row in await self._database.read(own):
            found = Embedding(row.model, tuple(_numbers(row.vector)))
            if not found.vector:
                return None
            nearest = await self._nearest(media_id, row)
            return await asyncio.to_thread(_ranked, found, nearest, limit)
        return None

    async def _nearest(self, media_id: int, own: sa.Row[Any]) -> Sequence[sa.Row[Any]]:
        # An index supplies these, so no vector is read for them.
        compared = (
            sa.select(_embeddings.media_id, *_words)
            .where(_embeddings.model == own.model, _embeddings.media_id != media_id)
            .order_by(_embeddings.media_id.desc())
            .limit(MAX_COMPARED)
            .subquery()
        )
        # SQLite has no exclusive or: a ^ b = (a | b) - (a & b).
        words = [(compared.c[one.name], sa.literal(getattr(own, one.name))) for one in _words]
        different = [one.bitwise_or(word) - one.bitwise_and(word) for one, word in words]
        distance = sum((sa.func.bit_count(one) for one in different), sa.literal(0))
        candidates = (
            sa.select(compared.c.media_id, distance.label("distance"))
            .order_by(sa.text("distance"), compared.c.media_id.desc())
            .limit(_CANDIDATES)
            .subquery()
        )
        query = (
            sa.select(_embeddings.media_id, _embeddings.vector)
            .join(candidates, candidates.c.media_id == _embeddings.media_id)
            .join(media_files, media_files.c.id == _embeddings.media_id)
            .where(servable)
        )
        return await self._database.read(query)


def _ranked(own: Embedding, rows: Sequence[sa.Row[Any]], limit: int) -> Mapping[int, float]:
    vectors = {row.media_id: _numbers(row.vector) for row in rows}
    # A vector of another length is of another version of the model.
    found = {
        media_id: own.similarity(vector)
        for media_id, vector in vectors.items()
        if len(vector) == len(own.vector)
    }
    return dict(sorted(found.items(), key=lambda one: (-one[1], -one[0]))[:limit])


async def row_of(media_id: int, embedding: Embedding) -> Mapping[str, Any]:
    """Return the row of an embedding."""
    words = await asyncio.to_thread(embedding.words)
    return {
        "media_id": media_id,
        "model": embedding.model,
        **{column.name: word for column, word in zip(_words, words, strict=True)},
        "vector": base64.b64encode(_swapped(array("f", embedding.vector))).decode(),
    }


async def replace_embedding(connection: AsyncConnection, row: Mapping[str, Any]) -> None:
    """Store the row of an embedding in a transaction; it replaces the one of its medium."""
    old = _embeddings.media_id == row["media_id"]
    await connection.execute(sa.delete(media_embeddings).where(old))
    await connection.execute(sa.insert(media_embeddings).values(row))


def _numbers(stored: str) -> array[float]:
    numbers = array("f")
    # A damaged vector is like one of another length: it affects its own image only.
    with suppress(ValueError):
        numbers.frombytes(base64.b64decode(stored))
    return _swapped(numbers)


def _swapped(numbers: array[float]) -> array[float]:
    """Convert between the order of this machine and the little-endian one of the table."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
