"""What a store counts, and when it spares the disk."""

import errno

import pytest

from proxy.storage.renditions.disk_state import (
    FAILURE_KINDS,
    DiskState,
    DiskUsage,
    failure_kind,
)
from proxy.storage.renditions.paths import UsageChange
from tests.storage.renditions.conftest import Clock
from tests.storage.renditions.variants import MIB, settings


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


def test_counters_are_flat_by_name(state: DiskState) -> None:
    state.record_corrupt(3, UsageChange(-4096, -1))
    state.record_eviction(3, UsageChange(-4096, -2))
    flat = state.counters.flat()
    assert (flat["corrupt"], flat["evictions"], flat["failures_timeout"]) == (1, 2, 0)
    assert set(flat) > {f"failures_{kind}" for kind in FAILURE_KINDS}
