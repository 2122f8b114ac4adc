"""Similar images are found by their embeddings, on every database."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from proxy.domain.embedding import Embedding
from proxy.domain.media import MediaFacts
from proxy.storage.database import NewMedia, embeddings
from proxy.storage.database.embeddings import EmbeddingRepository, replace_embedding, row_of
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from tests.domain.test_embedding import rotated, vector
from tests.storage.database.backends import Backend


class Library:
    """Images with embeddings."""

    def __init__(
        self, database: SqlMediaRepository, writer: LeasedWriter, new: NewMedia, facts: MediaFacts
    ) -> None:
        self._database, self._writer, self._new, self._facts = database, writer, new, facts
        self.similar = EmbeddingRepository(writer).similar

    async def add(self, found: tuple[float, ...], model: str = "clip") -> int:
        number = f"{Random(repr(found)).random()}"
        path = f"bulk/{number}.jpg"
        media_id = await self._database.insert(
            replace(self._new, bulk_path=path), replace(self._facts, source_path=path)
        )
        await self.store(media_id, found, model)
        return media_id

    async def store(self, media_id: int, found: tuple[float, ...], model: str = "clip") -> None:
        row = await row_of(media_id, Embedding(model, found))
        await self._writer.run(lambda connection: replace_embedding(connection, row))


@pytest.fixture
def library(
    database: SqlMediaRepository, writer: LeasedWriter, new: NewMedia, facts: MediaFacts
) -> Library:
    return Library(database, writer, new, facts)


async def test_the_most_similar_images_come_first(library: Library) -> None:
    one = vector(1)
    far, equal, near = [await library.add(rotated(one, angle)) for angle in (1.2, 0.0, 0.4)]
    media_id = await library.add(one)
    found = await library.similar(media_id, limit=10)
    assert found is not None
    assert list(found) == [equal, near, far]
    assert list(found.values()) == pytest.approx([1.0, 0.921, 0.362], abs=0.001)
    assert list(await library.similar(media_id, limit=1) or ()) == [equal]


async def test_only_images_of_the_same_model_that_can_be_served_are_found(
    library: Library, backend: Backend, url: str
) -> None:
    media_id = await library.add(vector(1))
    await library.add(vector(1), model="siglip")
    await library.add(vector(1, 256))
    failed = await library.add(rotated(vector(1), 0.2))
    served = await library.add(rotated(vector(1), 0.3))
    backend.run(url, f"UPDATE media_files SET status = 'failed' WHERE id = {failed}")
    assert list(await library.similar(media_id, limit=10) or ()) == [served]


async def test_an_image_without_an_embedding_is_told_from_one_without_similar_ones(
    library: Library,
) -> None:
    assert await library.similar(7, limit=10) is None
    assert await library.similar(await library.add(vector(1)), limit=10) == {}


async def test_a_later_embedding_replaces_the_earlier_one(library: Library) -> None:
    one, other = await library.add(vector(1)), await library.add(vector(2))
    await library.store(other, rotated(vector(1), 0.1))
    found = await library.similar(one, limit=10) or {}
    assert {**found} == {other: pytest.approx(0.995, abs=0.001)}


async def test_a_damaged_vector_affects_its_own_image_only(
    library: Library, backend: Backend, url: str
) -> None:
    one, damaged, other = [await library.add(rotated(vector(1), angle)) for angle in (0, 0.1, 0.2)]
    backend.run(url, f"UPDATE media_embeddings SET vector = 'AAA' WHERE media_id = {damaged}")
    assert list(await library.similar(one, limit=10) or ()) == [other]
    assert await library.similar(damaged, limit=10) is None


async def test_the_newest_images_are_compared(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "MAX_COMPARED", 2)
    media_id = await library.add(vector(1))
    _oldest, older, newest = [await library.add(rotated(vector(1), 0.1)) for _ in range(3)]
    assert set(await library.similar(media_id, limit=10) or ()) == {older, newest}


async def test_the_bits_choose_and_the_vectors_decide(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the images that are near by their bits the vectors are compared exactly."""
    monkeypatch.setattr(embeddings, "_CANDIDATES", 9)
    one = vector(1)
    angles = [0.30 - 0.005 * seed for seed in range(8)]
    # In different directions, so that their bits are in another order than their angles.
    near = [await library.add(rotated(one, angle, seed)) for seed, angle in enumerate(angles)]
    for seed in range(20, 40):
        await library.add(vector(seed))
    media_id = await library.add(one)
    assert list(await library.similar(media_id, limit=8) or ()) == near[::-1]
