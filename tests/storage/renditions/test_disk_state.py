"""The directory of the disk store: layout, deletions, usage, counters and breakers."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import pytest

from proxy.domain.variant import shape_of
from proxy.storage.renditions.disk_state import (
    FAILURE_KINDS,
    NO_CHANGE,
    SHARDS,
    DiskState,
    DiskUsage,
    Inodes,
    RenditionPaths,
    UsageChange,
    cost,
    delete_entry,
    delete_if_empty,
    delete_medium,
    failure_kind,
    shard_of,
)
from tests.storage.renditions.variants import MIB, settings, variant
from tests.support.clock import Clock

PATHS = RenditionPaths("/cache")


def test_a_rendition_is_below_its_shard_and_medium() -> None:
    shard = f"{shard_of(1):02x}"
    assert PATHS.rendition(variant(1)) == f"/cache/{shard}/1/{variant(1).digest}.avif"
    assert PATHS.medium(1) == f"/cache/{shard}/1"
    assert PATHS.shard(10) == "/cache/0a"


def test_the_shard_of_a_medium_never_changes() -> None:
    """Another hash would lose every rendition that is stored."""
    assert [shard_of(media_id) for media_id in (1, 2, 789)] == [88, 20, 102]


@pytest.mark.parametrize("step", [1, 2, 256])
def test_any_series_of_ids_spreads_evenly(step: int) -> None:
    counts = Counter(shard_of(media_id) for media_id in range(0, 25_600 * step, step))
    assert set(counts) == set(range(SHARDS))
    assert max(counts.values()) < 2 * 25_600 / SHARDS


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)])
def test_a_file_takes_whole_blocks(size: int, taken: int) -> None:
    assert cost(size) == taken


def test_temporary_files_and_purges_are_in_no_shard() -> None:
    shards = {PATHS.shard(number) for number in range(SHARDS)}
    assert not {PATHS.temporary, PATHS.unrecorded, PATHS.purged_until} & shards


def stored(root: Path, width: int) -> Path:
    path = Path(RenditionPaths(str(root)).rendition(variant(width=width)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(5000))
    return path


def test_a_deleted_file_frees_whole_blocks(tmp_path: Path) -> None:
    path = stored(tmp_path, 300)
    assert delete_entry(str(path)) == UsageChange(-8192, -1)
    assert not path.exists()


def test_a_missing_file_changes_nothing(tmp_path: Path) -> None:
    assert delete_entry(str(tmp_path / "a" / "b")) == NO_CHANGE


def test_a_directory_in_the_place_of_a_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert delete_entry(str(tmp_path / "a")) == NO_CHANGE
    assert not (tmp_path / "a").exists()


def test_a_link_is_deleted_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    delete_entry(str(tmp_path / "link"))
    assert (tmp_path / "target").exists()


def test_a_file_in_the_place_of_the_directory_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"x")
    assert delete_entry(str(tmp_path / "1" / "file.avif")) == NO_CHANGE
    assert not (tmp_path / "1").exists()


def test_a_medium_is_deleted_with_its_directory(tmp_path: Path) -> None:
    directory = stored(tmp_path, 300).parent
    stored(tmp_path, 480)
    assert delete_medium(str(directory)) == UsageChange(-16384, -2)
    assert not directory.exists()


def test_other_shapes_of_a_medium_stay(tmp_path: Path) -> None:
    narrow, wide = stored(tmp_path, 300), stored(tmp_path, 480)
    shapes = frozenset({shape_of(variant(width=300).geometry)})
    assert delete_medium(str(narrow.parent), shapes) == UsageChange(-8192, -1)
    assert (narrow.exists(), wide.exists()) == (False, True)


@pytest.mark.parametrize("place", ["absent", "file"])
def test_a_medium_without_a_directory_changes_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    assert delete_medium(str(tmp_path / place)) == NO_CHANGE


def test_a_directory_with_files_is_not_deleted(tmp_path: Path) -> None:
    path = stored(tmp_path, 300)
    delete_if_empty(str(path.parent))
    assert path.exists()
    path.unlink()
    delete_if_empty(str(path.parent))
    assert not path.parent.exists()


def test_usage_keeps_shards_apart() -> None:
    usage = DiskUsage()
    usage.add(3, UsageChange(100, 1))
    usage.add(4, UsageChange(200, 2))
    usage.set(3, UsageChange(50, 5))

    assert (usage.bytes, usage.items) == (250, 7)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, ""), "no_space"),
        (OSError(errno.EDQUOT, ""), "no_space"),
        (OSError(errno.EROFS, ""), "read_only"),
        (OSError(errno.EIO, ""), "io"),
        (OSError(errno.EMFILE, ""), "descriptors"),
        (OSError(errno.EACCES, ""), "permission"),
        (OSError(errno.ENOENT, ""), "missing"),
        (OSError(errno.EISCONN, ""), "other"),
        (TimeoutError(), "timeout"),
        (OSError(), "other"),
    ],
)
def test_failures_are_counted_by_kind(error: OSError, kind: str) -> None:
    assert failure_kind(error) == kind


@pytest.fixture
def state(monotonic: Clock) -> DiskState:
    return DiskState(settings(disk_max_bytes=MIB, disk_low_water=0.5), monotonic=monotonic)


def test_a_timed_out_read_opens_the_breaker_for_reads_alone(
    state: DiskState, monotonic: Clock
) -> None:
    state.record_read_failure(TimeoutError())
    assert (state.reads.open, state.writes.open) == (True, False)
    monotonic.now += 6
    assert not state.reads.open


def test_a_bad_block_does_not_open_the_breaker(state: DiskState) -> None:
    state.record_read_failure(OSError(errno.EIO, ""))
    assert not state.reads.open
    assert state.counters.failures["io"] == 1


def test_any_failed_write_opens_the_breaker_until_a_write_succeeds(state: DiskState) -> None:
    state.record_write_failure(OSError(errno.EIO, ""))
    assert state.writes.open
    state.record_write(0, UsageChange(4096, 1))
    assert not state.writes.open


def test_a_full_disk_forces_an_eviction_once_a_minute(state: DiskState, monotonic: Clock) -> None:
    full = OSError(errno.ENOSPC, "")
    state.usage.set(0, UsageChange(1000, 1))
    state.record_write_failure(full)
    assert state.maintenance_due.is_set()
    assert state.bytes_to_free() == 500
    state.start_survey()
    state.record_write_failure(full)
    assert (state.maintenance_due.is_set(), state.bytes_to_free()) == (False, 0)
    monotonic.now += 61
    state.record_write_failure(full)
    assert state.bytes_to_free() == 500


def test_usage_above_the_limit_is_reduced_to_low_water(state: DiskState) -> None:
    state.usage.set(0, UsageChange(MIB, 1))
    assert state.bytes_to_free() == 0
    state.usage.set(0, UsageChange(MIB + 1, 1))
    assert state.bytes_to_free() == MIB // 2 + 1


def test_written_bytes_are_due_after_the_usage_that_they_make(state: DiskState) -> None:
    """A process that writes alone evicts what a survey left over; it needs no other survey."""
    state.usage.set(0, UsageChange(MIB // 2, 1))
    state.record_write(0, UsageChange(MIB // 2, 1))
    assert not state.maintenance_due.is_set()
    state.record_write(0, UsageChange(1, 1))
    assert (state.maintenance_due.is_set(), state.above_limit) == (True, True)

    state.start_survey()
    state.usage.set(0, UsageChange(0, 0))
    state.record_write(0, UsageChange(MIB * 3 // 4, 1))
    assert not state.maintenance_due.is_set()
    state.record_write(0, UsageChange(1, 1))
    assert (state.maintenance_due.is_set(), state.above_limit) == (True, False)


def test_few_free_inodes_make_files_to_free(state: DiskState) -> None:
    state.usage.set(0, UsageChange(MIB, 5000))
    for total, free, files in (
        (0, 0, 0),
        (100_000, 5000, 0),
        (100_000, 4000, 2000),
        (100_000, 0, 5000),
    ):
        state.inodes = Inodes(total, free)
        assert state.files_to_free() == files, "a hundredth more than is missing, or all"


def test_usage_is_handed_to_another_process() -> None:
    found, other = DiskUsage(), DiskUsage()
    for shard in (0, 7, 255):
        found.set(shard, UsageChange(2**40 + shard, shard))
    other.set(3, UsageChange(5, 1))
    other.unpack(found.pack())
    assert (other.bytes, other.items, other.pack()) == (found.bytes, found.items, found.pack())
    with pytest.raises(ValueError, match="usage"):
        other.unpack(b"cut off")


def test_counters_are_flat_by_name(state: DiskState) -> None:
    state.record_corrupt(3, UsageChange(-4096, -1))
    state.record_eviction(3, UsageChange(-4096, -2))
    flat = state.counters.flat()
    assert (flat["corrupt"], flat["evictions"], flat["failures_timeout"]) == (1, 2, 0)
    assert set(flat) > {f"failures_{kind}" for kind in FAILURE_KINDS}
