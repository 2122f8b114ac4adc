"""Rounds of maintenance: usage is counted, and the files of least worth are evicted."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.storage.renditions import eviction, maintenance
from proxy.storage.renditions.disk_state import Inodes, UsageChange, shard_of
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.tiered_store import TieredStore
from tests.storage.renditions.test_disk_store import HOUR, counts, file_of
from tests.storage.renditions.variants import (
    KIB,
    MIB,
    body,
    put,
    read,
    settings,
    variant,
    writing,
)
from tests.support.clock import Clock
from tests.support.mounts import Mount
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

ITEM = 60 * KIB  # 64 KiB on the disk: sixteen make up the limit of 1 MiB


async def fill(disk: DiskStore, root: Path, clock: Clock, *, items: int) -> None:
    """Put so many renditions, the first one last used so many days ago."""
    for media_id in range(1, items + 1):
        await put(disk, variant(media_id), body(ITEM))
        used = clock.now - (items - media_id + 1) * 24 * HOUR
        os.utime(file_of(root, media_id), (used, used))


def kept(root: Path, *, items: int) -> list[int]:
    return [media_id for media_id in range(1, items + 1) if file_of(root, media_id).exists()]


async def test_nothing_goes_while_usage_is_within_the_limit(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await fill(disk, root, clock, items=16)

    await disk.maintenance.run_round()

    assert kept(root, items=16) == list(range(1, 17))
    assert counts(disk)["bytes"] == MIB


async def test_past_the_limit_the_least_recently_used_go_until_low_water(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await fill(disk, root, clock, items=20)

    await disk.maintenance.run_round()

    assert kept(root, items=20) == list(range(7, 21))
    assert counts(disk)["evictions"] == 6
    assert counts(disk)["items"] == 14
    assert counts(disk)["bytes"] == 14 * 64 * KIB


async def test_a_use_keeps_a_file(disk: DiskStore, root: Path, clock: Clock) -> None:
    await fill(disk, root, clock, items=20)
    await read(disk, variant(1))

    await disk.maintenance.run_round()

    assert kept(root, items=20) == [1, *range(8, 21)]


async def test_a_file_that_is_hit_in_memory_is_kept(root: Path, clock: Clock) -> None:
    limits = settings(disk_max_bytes=MIB, memory_max_bytes=100 * KIB)
    async with TieredStore(root, limits, clock=clock) as store:
        await fill(store.disk, root, clock, items=20)
        assert await read(store, variant(1)) is not None
        os.utime(file_of(root, 1), (0, 0))

        await store.disk.maintenance.run_round()

        assert kept(root, items=20) == [1, *range(8, 21)]


async def test_a_file_that_is_used_often_is_kept_longer(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await fill(disk, root, clock, items=20)
    for _ in range(10):
        await read(disk, variant(1))
    used = clock.now - 20 * 24 * HOUR
    os.utime(file_of(root, 1), (used, used))

    await disk.maintenance.run_round()

    assert kept(root, items=20) == [1, *range(8, 21)]


async def test_what_was_popular_in_memory_is_kept_on_disk(root: Path, clock: Clock) -> None:
    limits = settings(disk_max_bytes=MIB, memory_max_bytes=100 * KIB)
    async with TieredStore(root, limits, clock=clock) as store:
        await fill(store.disk, root, clock, items=20)
        for _ in range(10):
            await read(store, variant(1))
        # Each read evicts another rendition from memory, in the end also the first one.
        for _ in range(20):
            for media_id in (19, 20):
                await read(store, variant(media_id))
        assert variant(1).digest not in store.memory
        used = clock.now - 20 * 24 * HOUR
        os.utime(file_of(root, 1), (used, used))

        await store.disk.maintenance.run_round()

        assert kept(root, items=20) == [1, *range(8, 21)]


async def test_an_eviction_leaves_no_empty_directories(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await fill(disk, root, clock, items=20)

    await disk.maintenance.run_round()

    assert not file_of(root, 1).parent.exists()
    assert file_of(root, 20).parent.exists()


async def test_of_two_processes_only_one_evicts_at_a_time(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await fill(disk, root, clock, items=20)
    other = os.open(root, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)

    await disk.maintenance.run_round()
    assert counts(disk)["evictions"] == 0

    os.close(other)
    await disk.maintenance.run_round()
    assert counts(disk)["evictions"] == 6


async def test_while_another_process_surveys_its_last_survey_counts(
    disk: DiskStore, root: Path
) -> None:
    await put(disk, variant(1), body())
    await disk.maintenance.run_round()
    other = DiskStore(root, settings())
    await put(disk, variant(2), body())
    lock = os.open(root, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)

    await other.maintenance.run_round()
    assert counts(other)["items"] == 1

    os.close(lock)
    await other.maintenance.run_round()
    assert counts(other)["items"] == 2
    await other.maintenance.aclose()


async def test_within_the_interval_one_survey_is_enough_for_all_processes(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await put(disk, variant(1), body())
    await disk.maintenance.run_round()
    await put(disk, variant(2), body())
    for passed_s, items in ((-1, 1), (1, 2)):
        other = DiskStore(root, settings(), clock=clock)
        usage = root / "usage"
        surveyed = clock.now - other.maintenance.interval_s - passed_s
        os.utime(usage, (surveyed, surveyed))
        await other.maintenance.run_round(due=False)
        assert counts(other)["items"] == items
        await other.maintenance.aclose()


async def test_a_survey_from_before_the_clock_was_set_back_does_not_count(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await put(disk, variant(1), body())
    await disk.maintenance.run_round()
    await put(disk, variant(2), body())
    # The clock of a file server may be a little ahead.
    for ahead_s, items in ((30, 1), (86_400, 2)):
        other = DiskStore(root, settings(), clock=clock)
        os.utime(root / "usage", (clock.now, clock.now + ahead_s))
        await other.maintenance.run_round(due=False)
        assert counts(other)["items"] == items
        await other.maintenance.aclose()


async def test_a_damaged_file_of_usage_is_replaced(disk: DiskStore, root: Path) -> None:
    await put(disk, variant(1), body())
    (root / "usage").write_bytes(b"cut off")

    await disk.maintenance.run_round(due=False)

    assert counts(disk)["items"] == 1
    assert len((root / "usage").read_bytes()) == 4096


async def test_few_free_inodes_evict_files_within_the_limit_of_bytes(
    root: Path, clock: Clock, mounted: Mount
) -> None:
    with mounted(root, "size=64m,nr_inodes=100"):
        limits = settings(disk_min_free_inodes=0.5)
        async with DiskStore(root, limits, clock=clock) as store:
            await fill(store, root, clock, items=20)
            assert counts(store)["failures_no_space"] == 0

            await store.maintenance.run_round()

            assert counts(store)["inodes"] == 100
            assert 0 < counts(store)["evictions"] < 20
            assert kept(root, items=20) == list(range(1 + int(counts(store)["evictions"]), 21))


async def test_what_others_did_to_the_directory_is_counted_by_a_survey(
    disk: DiskStore, root: Path
) -> None:
    for media_id in (1, 2, 3):
        await put(disk, variant(media_id), body())
    file_of(root, 1).unlink()
    async with DiskStore(root, settings()) as other:
        await put(other, variant(4), body())
        await put(other, variant(5), body())

    await disk.maintenance.run_round()

    assert counts(disk)["items"] == 4
    assert counts(disk)["bytes"] == 4 * 16 * KIB


async def refill(disk: DiskStore, root: Path, clock: Clock, *, media: range) -> None:
    """Put renditions that were used just now."""
    for media_id in media:
        await put(disk, variant(media_id), body(ITEM))
        os.utime(file_of(root, media_id), (clock.now, clock.now))


@pytest.fixture
def two_spare_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a survey leave over what two evictions need."""
    monkeypatch.setattr(maintenance, "SPARE_ROUNDS", 2)


@pytest.fixture
async def surveyed(disk: DiskStore, root: Path, clock: Clock, two_spare_rounds: None) -> DiskStore:
    """A store that has evicted 1 to 6 of 20, and that the next three renditions fill again.

    The survey has left over twice the tenth that is evicted from then on: 7, 8 and 9.
    """
    await fill(disk, root, clock, items=20)
    await disk.maintenance.run_round()
    assert kept(root, items=20) == list(range(7, 21))
    disk.maintenance.state.start_survey()
    await refill(disk, root, clock, media=range(21, 24))
    return disk


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are surveyed from now on."""
    shards: list[str] = []

    def recorded(shard: str, **options: Any) -> UsageChange:
        shards.append(shard)
        return eviction.survey(shard, **options)

    monkeypatch.setattr(maintenance, "survey", recorded)
    return shards


async def test_what_a_survey_left_over_is_evicted_without_another_one(
    surveyed: DiskStore, root: Path, clock: Clock, surveys: list[str]
) -> None:
    assert surveyed.maintenance.state.maintenance_due.is_set()
    await surveyed.maintenance.run_round()

    assert surveys == []
    assert kept(root, items=23) == list(range(10, 24)), "least worth first, to low water"
    assert counts(surveyed)["evictions"] == 9
    assert counts(surveyed)["bytes"] == 14 * 64 * KIB

    # Nothing is left over now.
    await refill(surveyed, root, clock, media=range(24, 27))
    await surveyed.maintenance.run_round()
    assert surveys
    assert kept(root, items=26) == list(range(13, 27))


async def test_if_what_was_left_over_is_not_enough_a_survey_follows(
    surveyed: DiskStore, root: Path, clock: Clock, surveys: list[str]
) -> None:
    await refill(surveyed, root, clock, media=range(24, 30))

    await surveyed.maintenance.run_round()

    assert surveys
    assert kept(root, items=29) == list(range(16, 30))
    assert counts(surveyed)["bytes"] == 14 * 64 * KIB


async def test_what_was_used_since_the_survey_is_kept(
    surveyed: DiskStore, root: Path, surveys: list[str]
) -> None:
    await read(surveyed, variant(7))

    await surveyed.maintenance.run_round()

    assert surveys == []
    assert kept(root, items=23) == [7, *range(10, 24)], "above low water, but within the limit"


@pytest.mark.usefixtures("two_spare_rounds")
async def test_what_was_hit_in_memory_since_the_survey_is_kept(
    root: Path, clock: Clock, surveys: list[str]
) -> None:
    limits = settings(disk_max_bytes=MIB, memory_max_bytes=100 * KIB)
    async with TieredStore(root, limits, clock=clock) as store:
        await fill(store.disk, root, clock, items=20)
        await store.disk.maintenance.run_round()
        await refill(store.disk, root, clock, media=range(21, 24))
        surveys.clear()
        assert await read(store, variant(7)) is not None
        os.utime(file_of(root, 7), (0, 0))

        await store.disk.maintenance.run_round()

        assert surveys == []
        assert kept(root, items=23) == [7, *range(10, 24)]


async def test_what_was_purged_since_the_survey_is_skipped(
    surveyed: DiskStore, root: Path, clock: Clock, surveys: list[str]
) -> None:
    await surveyed.purge(7)
    await refill(surveyed, root, clock, media=range(24, 25))

    await surveyed.maintenance.run_round()

    assert surveys == []
    assert kept(root, items=24) == list(range(10, 25))
    assert counts(surveyed)["evictions"] == 8
    assert counts(surveyed)["bytes"] == 15 * 64 * KIB


async def test_usage_within_the_limit_is_surveyed(
    disk: DiskStore, root: Path, clock: Clock, surveys: list[str]
) -> None:
    """Written bytes have made the round due: others may have written as many."""
    await fill(disk, root, clock, items=20)
    await disk.maintenance.run_round()
    surveys.clear()

    await disk.maintenance.run_round()

    assert surveys
    assert disk.maintenance.spare is not None
    assert len(disk.maintenance.spare.files) == 0


@pytest.mark.parametrize(("passed_s", "surveys_again"), [(3599, False), (3600, True), (-1, True)])
async def test_what_is_older_than_the_interval_is_not_used(
    surveyed: DiskStore, clock: Clock, surveys: list[str], *, passed_s: int, surveys_again: bool
) -> None:
    clock.now += passed_s
    await surveyed.maintenance.run_round()
    assert bool(surveys) == surveys_again
    assert counts(surveyed)["bytes"] == 14 * 64 * KIB


async def test_the_interval_makes_a_survey_although_files_are_left_over(
    surveyed: DiskStore, root: Path, surveys: list[str]
) -> None:
    os.utime(root / "usage", (0, 0))
    await surveyed.maintenance.run_round(due=False)
    assert surveys


async def test_after_the_survey_of_another_process_what_was_left_over_is_not_used(
    surveyed: DiskStore, root: Path, clock: Clock, surveys: list[str]
) -> None:
    other = DiskStore(root, settings(disk_max_bytes=MIB), clock=clock)
    await other.maintenance.run_round()
    await other.maintenance.aclose()
    assert kept(root, items=23) == list(range(10, 24))
    surveys.clear()

    await surveyed.maintenance.run_round()

    assert surveys
    assert kept(root, items=23) == list(range(10, 24)), "the other process has made room"


async def test_without_the_lock_nothing_that_was_left_over_is_evicted(
    surveyed: DiskStore, root: Path
) -> None:
    lock = os.open(root, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    await surveyed.maintenance.run_round()
    os.close(lock)
    assert kept(root, items=23) == list(range(7, 24))


async def test_a_purge_of_everything_forgets_what_was_left_over(surveyed: DiskStore) -> None:
    await surveyed.clear()
    assert surveyed.maintenance.spare is None


async def test_few_free_inodes_make_a_survey_although_files_are_left_over(
    surveyed: DiskStore, root: Path, surveys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_inodes_of", lambda _root: Inodes(1000, 45))
    await surveyed.maintenance.run_round()
    assert surveys
    assert len(kept(root, items=23)) == 2, "50 are to be free, and 10 more"


async def test_a_full_disk_within_the_limit_makes_a_survey(
    surveyed: DiskStore, clock: Clock, root: Path, surveys: list[str]
) -> None:
    await surveyed.maintenance.run_round()
    surveyed.maintenance.state.record_write_failure(OSError(errno.ENOSPC, ""))
    await surveyed.maintenance.run_round()
    assert surveys
    assert counts(surveyed)["evictions"] == 11, "a tenth of what is used"


async def test_small_shards_are_surveyed_together(
    disk: DiskStore, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(disk, root, clock, items=20)
    pieces: list[int] = []
    piece_of = maintenance._piece_of

    def counted(work: Iterator[Any]) -> list[Any]:
        done = piece_of(work)
        pieces.append(len(done))
        return done

    monkeypatch.setattr(maintenance, "_piece_of", counted)
    monkeypatch.setattr(maintenance, "_PIECE_S", 60.0)
    await disk.maintenance.run_round()
    shards = len({shard_of(media_id) for media_id in range(1, 21)})
    survey, end, deleted, last = pieces
    assert (survey, end, deleted, last) == (shards, 0, 1, 0)

    pieces.clear()
    monkeypatch.setattr(maintenance, "_PIECE_S", 0.0)
    await disk.maintenance.run_round()
    assert set(pieces) == {0, 1}, "a shard at a time, if it takes as long alone"


async def test_a_removed_directory_counts_as_empty(disk: DiskStore, root: Path) -> None:
    await put(disk, variant(), body())
    shutil.rmtree(root)

    await disk.maintenance.run_round()

    assert counts(disk)["items"] == 0


async def test_eviction_happens_by_itself(root: Path) -> None:
    limits = settings(disk_max_bytes=MIB)
    async with DiskStore(root, limits) as store:
        for media_id in range(1, 21):
            await put(store, variant(media_id), body(ITEM))

    async with DiskStore(root, limits, supervisor=Restarts().supervisor) as store:
        await eventually(lambda: counts(store)["evictions"] == 6)
        assert counts(store)["bytes"] <= 0.9 * MIB


async def test_writes_beyond_the_slack_make_a_survey_due(disk: DiskStore) -> None:
    """Other processes may have written as much: their part shows only in a survey."""
    for _ in range(3):
        await put(disk, variant(), body(ITEM))
        await disk.purge(1)

    assert disk._state.maintenance_due.is_set()


async def test_temporary_files_are_swept_when_they_have_not_changed_for_an_hour(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    left = root / "tmp" / "left-behind"
    left.touch()
    os.utime(left, (clock.now, clock.now))
    clock.now += HOUR - 1
    await disk.maintenance.run_round()
    assert left.exists()
    clock.now += 1
    await disk.maintenance.run_round()
    assert not left.exists()


@pytest.mark.parametrize("jump_s", [0, 10_000 * HOUR, -10_000 * HOUR])
async def test_a_write_under_way_is_not_swept(disk: DiskStore, clock: Clock, jump_s: int) -> None:
    async with writing(disk, variant(), body(MIB)):
        clock.now = time.time() + jump_s
        await disk.maintenance.run_round()

    assert await read(disk, variant()) == body(MIB)


async def test_a_purge_of_everything_moves_the_shards_and_the_next_round_deletes_them(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await fill(disk, root, clock, items=5)
    await disk.clear()
    assert kept(root, items=5) == []
    assert counts(disk)["bytes"] == 0
    assert disk.maintenance.state.maintenance_due.is_set()
    # What is rendered afterwards stays.
    await put(disk, variant(9), body(ITEM))
    left = [number async for number in disk.maintenance.delete_discarded()]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 1
    assert not [*(root / "purged").rglob("*")]
    assert file_of(root, 9).exists()
    assert counts(disk)["discarded"] == 0


async def test_a_deletion_that_a_stop_has_interrupted_is_continued_by_the_next_round(
    disk: DiskStore, root: Path, clock: Clock
) -> None:
    await fill(disk, root, clock, items=5)
    await disk.clear()
    await anext(disk.maintenance.delete_discarded())
    assert [path for path in (root / "purged").rglob("*") if path.is_file()]
    await disk.maintenance.run_round()
    assert not [*(root / "purged").rglob("*")]


async def test_a_purge_of_everything_takes_a_rename_per_shard_whatever_it_contains(
    disk: DiskStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for media_id in range(3000):
        file_of(root, media_id).parent.mkdir(parents=True)
        file_of(root, media_id).touch()
    moved: list[Path] = []
    rename = Path.rename

    def counted(path: Path, target: Path) -> Path:
        moved.append(path)
        return rename(path, target)

    def refused(*_arguments: object, **_options: object) -> None:
        pytest.fail("nothing is deleted before the caller has its answer")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", counted)
        for name in ("unlink", "rmdir", "scandir"):
            patched.setattr(os, name, refused)
        await disk.clear()
    assert len(moved) == 256
