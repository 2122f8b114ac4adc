"""A purge deletes the renditions of an image, of a user or of one size, with or without a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from proxy.domain.errors import StorageError
from proxy.domain.media import MAX_MEDIA_ID, Media, MediaFacts
from proxy.domain.request import named_boxes
from proxy.domain.variant import Shapes, shapes_of
from proxy.serving.purge import PurgeResult, PurgeService
from proxy.settings import Settings
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.renditions.tiered_store import TieredStore

SIZES = Settings().size_specs()
GRID = named_boxes("grid", SIZES)
FACTS = MediaFacts(
    content_hash="ab" * 32,
    byte_size=1000,
    source_type="jpeg",
    width=4000,
    height=3000,
    has_alpha=False,
    pages=1,
    flat_background=False,
    focus=None,
    source_path="bulk/a.jpg",
)
MEDIA = Media(
    id=1,
    user_id=7,
    data_type="product",
    original_name="a.jpg",
    mime_type="image/jpeg",
    file_size=1000,
    bulk_path="bulk/a.jpg",
    library_path=None,
    status="completed",
    updated_at=datetime(2026, 11, 20, tzinfo=UTC),
    facts=FACTS,
)


class House:
    """Rows, a catalogue and a store that write down what they are told."""

    def __init__(self, *rows: Media, broken: bool = False) -> None:
        self.rows = {row.id: row for row in rows}
        self.broken = broken
        self.told: list[tuple[Any, ...]] = []
        self.purger = PurgeService(
            rows=cast(Any, self),
            catalogue=cast(SqlMediaRepository, self),
            store=cast(TieredStore, self),
            forgetters=[lambda media_id: self.told.append(("answers", media_id))],
        )

    async def find(self, media_id: int) -> Media | None:
        return self.rows.get(media_id)

    def invalidate(self, media_id: int) -> None:
        self.told.append(("row", media_id))

    async def delete_facts(self, media_id: int) -> None:
        self.told.append(("facts", media_id))

    async def ids_of_user(self, user_id: int, *, after: int, limit: int) -> Sequence[int]:
        ids = sorted(row.id for row in self.rows.values() if row.user_id == user_id)
        return [one for one in ids if one > after][: min(limit, 2)]

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        if self.broken:
            raise StorageError("no")
        self.told.append(("store", media_id, shapes))
        return media_id * 10


async def test_all_of_a_medium_goes_and_what_was_learned_of_it_first() -> None:
    house = House(MEDIA)
    assert await house.purger.medium(1) == 10
    assert house.told == [("facts", 1), ("answers", 1), ("store", 1, None)]


async def test_one_size_goes_by_the_row_as_it_stands_and_the_facts_stay() -> None:
    house = House(MEDIA)
    await house.purger.medium(1, GRID)
    assert house.told == [("row", 1), ("answers", 1), ("store", 1, shapes_of(GRID, FACTS))]


@pytest.mark.parametrize(
    "rows",
    [(), (replace(MEDIA, facts=None),), (replace(MEDIA, bulk_path="bulk/other.jpg"),)],
    ids=["no row", "no facts", "facts of another file"],
)
async def test_where_the_facts_are_not_known_one_size_is_all(rows: tuple[Media, ...]) -> None:
    house = House(*rows)
    await house.purger.medium(1, GRID)
    assert house.told[-1] == ("store", 1, None)
    assert ("facts", 1) in house.told


async def test_an_id_that_no_row_can_have_is_purged_already() -> None:
    house = House()
    assert await house.purger.medium(MAX_MEDIA_ID + 1) == 0
    assert house.told == []


async def test_a_user_is_purged_page_by_page() -> None:
    house = House(
        *(replace(MEDIA, id=one) for one in (1, 2, 3, 5, 8)), replace(MEDIA, id=4, user_id=9)
    )
    purged = [one async for one in house.purger.user(7, GRID)]
    assert purged == [PurgeResult(one, one * 10) for one in (1, 2, 3, 5, 8)]


async def test_a_user_without_media_is_purged_already() -> None:
    assert [one async for one in House(MEDIA).purger.user(99)] == []


async def test_a_store_that_fails_is_told() -> None:
    with pytest.raises(StorageError):
        await House(MEDIA, broken=True).purger.medium(1)
