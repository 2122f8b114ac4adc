"""A purge deletes the renditions of an image, of a user or of one size, with or without a row."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from proxy.domain.errors import DatabaseUnavailable, StorageError
from proxy.domain.media import MAX_MEDIA_ID, Media, MediaFacts
from proxy.domain.render_plan import EVERYONE, PurgeEpochs
from proxy.domain.request import named_boxes
from proxy.domain.variant import PurgeEntry, Shapes, box_geometry, shape_of, shapes_of
from proxy.serving.purge import PurgeResult, PurgeService
from proxy.settings import Settings
from proxy.storage.database.purge_table import RecordedEpoch
from proxy.storage.renditions.purge_journal import PurgeJournal, UserPurge
from proxy.storage.renditions.tiered_store import MemoryStore, TieredStore

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
GRID_SHAPES = shapes_of(GRID, FACTS) | {shape_of(box_geometry(box)) for box in GRID}
"""Of this server's image, and of one of another server that has the same id."""
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
    """Rows, a catalogue, a table and a store that write down what they are told."""

    def __init__(self, root: Path, *rows: Media) -> None:
        self.rows = {row.id: row for row in rows}
        self.cached: Sequence[int] = ()
        self.down = self.read_only = self.no_epochs = False
        self.broken: Collection[int] = ()
        self.told: list[tuple[Any, ...]] = []
        self.recorded: list[PurgeEntry] = []
        self.epochs = PurgeEpochs()
        self.advanced: Counter[int] = Counter()
        self.memory = MemoryStore(Settings().renditions)
        self.skip_objects = False
        self.journal = PurgeJournal(str(root))
        self.purger = self.process()

    def process(self) -> PurgeService:
        """Return a service as another process on the same directory has it."""
        fake = cast(Any, self)
        return PurgeService(
            rows=fake,
            catalogue=fake,
            table=fake,
            journal=self.journal,
            store=cast(TieredStore, self),
            epochs=self.epochs,
        )

    def kept(self) -> list[PurgeEntry | UserPurge]:
        return list(self.journal.read().values())

    async def find(self, media_id: int) -> Media | None:
        self._answer(refuse=self.down)
        return self.rows.get(media_id)

    def changed(self, media_id: int) -> None:
        self.told.append(("answers", media_id))

    def distrust_facts(self, media_id: int) -> None:
        self.told.append(("facts", media_id))

    def facts_deleted(self, media_id: int) -> None:
        self.told.append(("facts deleted", media_id))

    def media_of_user(self, user_id: int) -> Sequence[int]:
        return [one for one in self.cached if self.rows[one].user_id == user_id]

    async def ids_of_user(self, user_id: int, *, after: int, limit: int) -> Sequence[int]:
        self._answer(refuse=self.down)
        ids = sorted(row.id for row in self.rows.values() if row.user_id == user_id)
        return [one for one in ids if one > after][: min(limit, 2)]

    async def record(self, entries: Collection[PurgeEntry]) -> None:
        self._answer(refuse=self.down or self.read_only)
        self.recorded += entries

    async def advance(self, user_id: int = EVERYONE) -> RecordedEpoch:
        self._answer(refuse=self.down or self.read_only or self.no_epochs)
        self.advanced[user_id] += 1
        return RecordedEpoch(user_id, self.advanced[user_id], 0)

    async def clear(self) -> None:
        if self.broken:
            raise StorageError("no")
        self.told.append(("clear",))

    async def delete_old(self) -> None:
        self._answer(refuse=self.down or self.read_only)

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        if media_id in self.broken:
            raise StorageError("no")
        self.told.append(("store", media_id, shapes))
        return media_id * 10

    def _answer(self, *, refuse: bool) -> None:
        if refuse:
            raise DatabaseUnavailable("down")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, MEDIA)
    yield house
    await house.purger.aclose()


async def test_all_of_a_medium_goes_and_what_was_learned_of_it_first(house: House) -> None:
    assert await house.purger.medium(1) == PurgeResult(1, 10)
    assert house.told == [("facts", 1), ("answers", 1), ("store", 1, None), ("facts deleted", 1)]
    assert house.recorded == [PurgeEntry(1)]


async def test_one_size_goes_by_the_row_as_it_stands_and_the_facts_stay(house: House) -> None:
    await house.purger.medium(1, GRID)
    assert house.told == [("answers", 1), ("store", 1, GRID_SHAPES)]
    assert house.recorded == [PurgeEntry(1, GRID_SHAPES)]


@pytest.mark.parametrize(
    "rows",
    [(), (replace(MEDIA, facts=None),), (replace(MEDIA, bulk_path="bulk/other.jpg"),)],
    ids=["no row", "no facts", "facts of another file"],
)
async def test_where_the_facts_are_not_known_one_size_is_all(
    rows: tuple[Media, ...], house: House
) -> None:
    house.rows = {row.id: row for row in rows}
    await house.purger.medium(1, GRID)
    assert ("store", 1, None) in house.told
    assert ("facts", 1) in house.told


async def test_an_id_that_no_row_can_have_is_purged_already(house: House) -> None:
    assert (await house.purger.medium(MAX_MEDIA_ID + 1)).dropped == 0
    assert house.told == []


async def test_a_user_is_purged_page_by_page(house: House) -> None:
    rows = [*(replace(MEDIA, id=one) for one in (1, 2, 3, 5, 8)), replace(MEDIA, id=4, user_id=9)]
    house.rows = {row.id: row for row in rows}
    purged = [one async for one in house.purger.user(7, GRID)]
    assert purged == [PurgeResult(one, one * 10) for one in (1, 2, 3, 5, 8)]


async def test_a_user_without_media_is_purged_already(house: House) -> None:
    assert [one async for one in house.purger.user(99)] == []


async def test_a_store_that_fails_is_told_and_other_servers_purge(house: House) -> None:
    house.broken = {1}
    with pytest.raises(StorageError):
        await house.purger.medium(1)
    assert house.recorded == [PurgeEntry(1)]


@pytest.mark.parametrize("broken", [{1}, {2}, {3}, {4}, {5}, {1, 2, 3, 4, 5}], ids=str)
async def test_a_medium_that_cannot_be_purged_costs_only_itself(
    broken: Collection[int], house: House
) -> None:
    """First, last and in the middle, also of a page: pages have two media here."""
    house.rows = {one: replace(MEDIA, id=one) for one in range(1, 6)}
    house.broken = broken
    purged = [one async for one in house.purger.user(7)]
    assert [one.media_id for one in purged] == [1, 2, 3, 4, 5]
    assert {one.media_id for one in purged if one.error is not None} == set(broken)
    assert [one.dropped for one in purged] == [0 if n in broken else n * 10 for n in range(1, 6)]
    assert [entry.media_id for entry in house.recorded] == [1, 2, 3, 4, 5], (
        "other servers purge all"
    )


async def test_a_kept_purge_of_a_user_goes_on_after_a_medium_that_fails(house: House) -> None:
    house.rows = {one: replace(MEDIA, id=one) for one in range(1, 6)}
    house.down = True
    assert [one async for one in house.purger.user(7)] == [PurgeResult(None, 0, recorded=False)]
    house.down, house.broken = False, {1}
    with structlog.testing.capture_logs() as logs:
        await house.purger.retry()
    assert {entry.media_id for entry in house.recorded} == {1, 2, 3, 4, 5}
    assert house.kept() == []
    assert [one["media_id"] for one in logs if one["event"] == "purge_incomplete"] == [1]


@pytest.mark.parametrize("fault", ["down", "read_only"])
async def test_while_the_database_fails_disk_and_memory_are_purged_and_it_is_recorded_later(
    fault: str, house: House
) -> None:
    setattr(house, fault, True)
    assert await house.purger.medium(1) == PurgeResult(1, 10, recorded=False)
    assert ("store", 1, None) in house.told
    assert house.kept() == [PurgeEntry(1)]
    await house.purger.retry()
    assert house.purger.unrecorded == 1
    setattr(house, fault, False)
    await house.purger.retry()
    assert house.recorded == [PurgeEntry(1)]
    assert (house.kept(), house.purger.unrecorded) == ([], 0)
    assert house.told.count(("store", 1, None)) == 1


async def test_without_the_row_a_size_is_all_sizes(house: House) -> None:
    house.down = True
    assert not (await house.purger.medium(1, GRID)).recorded
    assert ("store", 1, None) in house.told


async def test_an_unrecorded_purge_survives_a_restart(house: House) -> None:
    house.read_only = True
    await house.purger.medium(1, GRID)
    house.read_only = False
    again = house.process()
    await again.retry()
    assert house.recorded == [PurgeEntry(1, GRID_SHAPES)]
    assert house.kept() == []
    await again.aclose()


async def test_an_unrecorded_purge_reaches_a_process_that_shares_the_directory(
    house: House,
) -> None:
    neighbour = house.process()
    await neighbour.retry()
    house.down = True
    await house.purger.medium(1)
    house.told.clear()
    await neighbour.retry()
    await neighbour.retry()
    assert house.told == [("facts", 1), ("answers", 1), ("store", 1, None)]
    await neighbour.aclose()


async def test_a_user_whose_media_cannot_be_listed_is_purged_as_far_as_rows_are_cached(
    house: House,
) -> None:
    house.rows = {one: replace(MEDIA, id=one) for one in (1, 2, 3)}
    house.cached, house.down = (2,), True
    purged = [one async for one in house.purger.user(7)]
    assert purged == [PurgeResult(2, 20, recorded=False), PurgeResult(None, 0, recorded=False)]
    assert set(house.kept()) == {UserPurge(7), PurgeEntry(2)}

    house.down = False
    again = house.process()
    await again.retry()
    assert {entry.media_id for entry in house.recorded} == {1, 2, 3}
    assert house.kept() == []
    await again.aclose()


@pytest.mark.parametrize("user_id", [7, 8])
async def test_a_user_whose_epoch_is_not_accepted_is_kept_over_a_restart(
    user_id: int, house: House
) -> None:
    """The account may lack UPDATE on `purge_epochs`, or only reads are possible."""
    house.no_epochs = True
    results, complete = await house.purger.user_within(user_id, 60)
    assert complete
    assert [one.media_id for one in results] == ([1, None] if user_id == 7 else [None])
    assert not any(one.recorded for one in results)
    assert house.kept() == [UserPurge(user_id)]
    assert house.purger.unrecorded == 1
    house.no_epochs = False
    again = house.process()
    await again.retry()
    assert house.advanced == {user_id: 1}
    assert house.kept() == []
    await again.aclose()


async def test_a_purge_that_nothing_accepts_is_kept_in_memory(house: House, tmp_path: Path) -> None:
    house.down = True
    (tmp_path / "unrecorded").touch()
    assert not (await house.purger.medium(1)).recorded
    assert house.purger.unrecorded == 1
    house.down = False
    await house.purger.retry()
    assert (house.recorded, house.purger.unrecorded) == ([PurgeEntry(1)], 0)


async def test_a_change_is_applied_here_after_its_transaction_and_facts_are_kept(
    house: House,
) -> None:
    async def write() -> str:
        house.told.append(("written", 1))
        return "result"

    assert await house.purger.after_write(1, write()) == "result"
    assert house.told == [("written", 1), ("answers", 1), ("store", 1, None)]
    # The transaction has announced it.
    assert house.recorded == []
    house.told.clear()
    assert await house.purger.after_write(1, write(), renditions=False) == "result"
    assert house.told == [("written", 1), ("answers", 1)]


async def test_a_change_is_applied_although_its_editor_has_left_or_its_outcome_is_unknown(
    house: House,
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        begun.set()
        await go.wait()
        raise DatabaseUnavailable("lost")

    request = asyncio.create_task(house.purger.after_write(1, write()))
    await begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert house.told == []
    go.set()
    await house.purger.aclose()
    assert house.told == [("answers", 1), ("store", 1, None)]


async def test_a_disk_that_fails_does_not_undo_a_change(house: House) -> None:
    async def write() -> bool:
        return True

    house.broken = {1}
    assert await house.purger.after_write(1, write())
    result = await house.purger.apply_recorded(1)
    assert (result.dropped, type(result.error)) == (0, StorageError)


async def test_everything_goes_with_one_step_of_the_epoch_and_the_disk_is_cleared(
    house: House,
) -> None:
    resets: list[int] = []
    house.purger.resets.append(lambda: resets.append(house.epochs.changes))
    assert await house.purger.everything()
    assert house.advanced == {EVERYONE: 1}
    assert house.told == [("clear",)]
    assert resets == [1], "after the change: what is derived from now on has new keys"
    assert house.recorded == []


async def test_everything_without_the_database_is_cleared_here_and_recorded_later(
    house: House,
) -> None:
    house.down = True
    assert not await house.purger.everything()
    assert house.told == [("clear",)]
    assert house.purger.unrecorded == 1
    assert house.skip_objects, "those in a bucket have the same keys until it is recorded"
    # Another process that shares the directory has renditions in memory.
    other = house.process()
    house.skip_objects = False
    await other.retry()
    assert house.told == [("clear",)] * 2
    assert house.skip_objects
    house.down = False
    await house.purger.retry()
    assert house.advanced == {EVERYONE: 1}
    assert not house.skip_objects
    assert house.purger.unrecorded == 0
    await other.aclose()


async def test_a_user_is_purged_before_the_first_medium_is_listed(house: House) -> None:
    purged = house.purger.user(7)
    assert (await anext(purged)).media_id == 1
    await purged.aclose()
    assert house.advanced == {7: 1}
    assert house.epochs.version("hash", 7) != "hash"
    assert house.epochs.version("hash", 8) == "hash"


async def test_a_user_in_one_size_keeps_the_other_renditions_and_so_the_epoch(
    house: House,
) -> None:
    assert [one async for one in house.purger.user(7, GRID)]
    assert house.advanced == {}


async def test_a_disk_that_cannot_be_cleared_is_reported(house: House) -> None:
    house.broken = [1]
    with pytest.raises(StorageError):
        await house.purger.everything()
    assert house.advanced == {EVERYONE: 1}, "other servers purge"
