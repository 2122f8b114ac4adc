"""Stores what people decide about media, and the alternative texts that they write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import BadParameter
from proxy.domain.media import (
    NO_CHOICES,
    Background,
    CropBox,
    Focus,
    MediaChoices,
    Visibility,
    readable_text,
    stored_choices,
)
from proxy.domain.variant import PurgeEntry
from proxy.storage.database.media_repository import CHOICES, SqlMediaRepository, replace_into
from proxy.storage.database.purge_table import announcement
from proxy.storage.database.tables import (
    DatabaseClock,
    media_alt_texts,
    media_choices,
    media_files,
    raw,
)
from proxy.storage.database.transactions import SqlDatabase

MAX_TEXTS = 50
"""Languages in which a medium can have alternative texts."""

_stored, _files, _alts = media_choices.c, media_files.c, media_alt_texts.c
_MEDIUM = sa.select(_files.id, DatabaseClock().label("now")).where(
    _files.id == sa.bindparam("media_id")
)
# Locked, so that two editors who set different values do not undo each other's.
_CURRENT = (
    sa.select(*(raw(_stored[name]) for name in CHOICES))
    .where(_stored.media_id == sa.bindparam("media_id"))
    .with_for_update()
)
# A row that does not exist cannot be locked: with READ COMMITTED there are no gap locks.
_ADD = (
    sa.insert(media_choices)
    .prefix_with("IGNORE", dialect="mysql")
    .prefix_with("OR IGNORE", dialect="sqlite")
)
_SAVE_ALT = replace_into(media_alt_texts)
_SAVE = sa.update(media_choices).where(_stored.media_id == sa.bindparam("medium"))


_PRIVATE = sa.select(sa.func.count().label("number")).where(
    _stored.visibility == Visibility.PRIVATE
)


async def count_private(database: SqlMediaRepository) -> int:
    """Return how many media a person has made private."""
    rows = await database.read(_PRIVATE)
    return int(rows[0].number)


class ChoicesRepository:
    """Writes ``media_choices``. Each value has its own last writer, who wins.

    A method stores one value and announces a purge of the medium to all other servers in the same
    transaction; the caller purges on this server (`PurgeService.after_write`). It returns all
    choices as they are then, or None if there is no such medium. A value that is None is deleted.

    Raises:
        DatabaseUnavailable: nothing was stored.
        CommitUncertain: it is unknown whether the value was stored; it can be set again.
    """

    def __init__(self, writer: SqlDatabase, *, server: str = "") -> None:
        """Use connections that the caller closes; ``server`` is `PurgeTable.server`."""
        self._writer = writer
        self._server = server

    async def set_focus(self, media_id: int, focus: Focus | None) -> MediaChoices | None:
        """Set the point that cover crops keep."""
        return await self._set(media_id, lambda old: replace(old, focus=focus))

    async def set_crop(self, media_id: int, size: str, box: CropBox | None) -> MediaChoices | None:
        """Set the region that a named size keeps."""

        def change(old: MediaChoices) -> MediaChoices:
            crops = {name: one for name, one in old.crops if name != size}
            if box is not None:
                crops[size] = box
            return replace(old, crops=tuple(sorted(crops.items())))

        return await self._set(media_id, change)

    async def set_background(
        self, media_id: int, background: Background | None
    ) -> MediaChoices | None:
        """Set the background of addresses without ``bg``."""
        return await self._set(media_id, lambda old: replace(old, background=background))

    async def set_visibility(
        self, media_id: int, visibility: Visibility | None
    ) -> MediaChoices | None:
        """Set who may see the medium."""
        return await self._set(media_id, lambda old: replace(old, visibility=visibility))

    async def _set(
        self, media_id: int, change: Callable[[MediaChoices], MediaChoices]
    ) -> MediaChoices | None:
        return await self._writer.run(partial(self._write, media_id, change))

    async def _write(
        self,
        media_id: int,
        change: Callable[[MediaChoices], MediaChoices],
        connection: AsyncConnection,
    ) -> MediaChoices | None:
        values = {"media_id": media_id}
        medium = (await connection.execute(_MEDIUM, values)).one_or_none()
        if medium is None:
            return None
        row = (await connection.execute(_CURRENT, values)).one_or_none()
        if row is None:
            if change(NO_CHOICES) == NO_CHOICES:
                return NO_CHOICES
            await connection.execute(_ADD, {**values, "updated_at": medium.now})
            row = (await connection.execute(_CURRENT, values)).one()
        # A bad value that is stored counts as not set, and is replaced.
        old = stored_choices(row._asdict(), lambda _: None)
        new = change(old)
        # Nothing is purged for nothing: forms are sent twice.
        if new != old:
            stored = {**_columns(new), "medium": media_id, "updated_at": medium.now}
            await connection.execute(_SAVE, stored)
            await connection.execute(announcement([PurgeEntry(media_id)], server=self._server))
        return new


def _columns(choices: MediaChoices) -> dict[str, Any]:
    focus = choices.focus
    return {
        "focus_x": focus and focus.x,
        "focus_y": focus and focus.y,
        "crops": {name: list(box) for name, box in choices.crops} or None,
        "background": choices.background,
        "visibility": choices.visibility,
    }


class AltTextRepository:
    """Reads and writes ``media_alt_texts``; each text has its own last writer, who wins.

    A change announces in its transaction that what servers know of the medium is out of date.
    Methods raise DatabaseUnavailable.
    """

    def __init__(self, *, reader: SqlDatabase, writer: SqlDatabase, server: str = "") -> None:
        """Use connections that the caller closes; ``server`` is `PurgeTable.server`."""
        self._reader = reader
        self._writer = writer
        self._server = server

    async def find(self, media_id: int) -> dict[str, str]:
        """Return the texts of a medium by language, in alphabetical order."""
        return (await self.find_many([media_id])).get(media_id, {})

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, dict[str, str]]:
        """Return the texts of media that have any."""
        query = (
            sa.select(_alts.media_id, raw(_alts.language), raw(_alts.alt))
            .where(_alts.media_id.in_(media_ids))
            .order_by(_alts.media_id, _alts.language)
        )
        found: dict[int, dict[str, str]] = {}
        for row in await self._reader.read(query):
            language, text = readable_text(row.language), readable_text(row.alt)
            if language is not None and text is not None:
                found.setdefault(row.media_id, {})[language] = text
        return found

    async def set_texts(self, media_id: int, texts: Mapping[str, str]) -> bool:
        """Set texts by canonical language; return False if there is no such medium.

        Raises:
            BadParameter: the medium would have more than `MAX_TEXTS`.
        """

        async def work(connection: AsyncConnection) -> bool:
            values = {"media_id": media_id}
            medium = (await connection.execute(_MEDIUM, values)).one_or_none()
            if medium is None:
                return False
            known = sa.select(_alts.language).where(_alts.media_id == media_id)
            before = set((await connection.execute(known)).scalars())
            if len(before | set(texts)) > MAX_TEXTS:
                allowed = f"texts in at most {MAX_TEXTS} languages; delete others first"
                raise BadParameter("the body", allowed)
            for language, text in texts.items():
                row = {"language": language, "alt": text, "updated_at": medium.now}
                await connection.execute(_SAVE_ALT, {**values, **row})
            await connection.execute(self._announcement(media_id))
            return True

        return await self._writer.run(work)

    async def delete(self, media_id: int, language: str | None = None) -> bool:
        """Delete the text in a language, or all; return False if there is no such medium."""

        async def work(connection: AsyncConnection) -> bool:
            if (await connection.execute(_MEDIUM, {"media_id": media_id})).one_or_none() is None:
                return False
            texts = sa.delete(media_alt_texts).where(_alts.media_id == media_id)
            if language is not None:
                texts = texts.where(_alts.language == language)
            if (await connection.execute(texts)).rowcount:
                await connection.execute(self._announcement(media_id))
            return True

        return await self._writer.run(work)

    def _announcement(self, media_id: int) -> sa.Insert:
        # No rendition depends on a text.
        return announcement([PurgeEntry(media_id, frozenset())], server=self._server)
