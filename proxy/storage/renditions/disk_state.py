"""State of the rendition stores: counters, disk usage, circuit breakers."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.settings import RenditionSettings
from proxy.storage.renditions.paths import NO_CHANGE, SHARDS, UsageChange

_PAUSE_S = 5.0
# A disk that is full below our own limit is filled by another program. Evicting for it is limited
# to once in this time, or the other program would consume the whole cache.
_FORCED_EVERY_S = 60.0

_CODES: Mapping[str, tuple[int, ...]] = {
    "no_space": (errno.ENOSPC, errno.EDQUOT),
    "read_only": (errno.EROFS,),
    "io": (errno.EIO,),
    "descriptors": (errno.EMFILE, errno.ENFILE),
    "permission": (errno.EACCES, errno.EPERM),
    "missing": (errno.ENOENT, errno.ENOTDIR, errno.ESTALE),
    "timeout": (errno.ETIMEDOUT,),
}
_KINDS = {code: kind for kind, codes in _CODES.items() for code in codes}
FAILURE_KINDS = (*_CODES, "too_large", "other")
"""The labels that failures are counted by."""


def failure_kind(error: OSError) -> str:
    """Return the label of an error, one of `FAILURE_KINDS`."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return _KINDS.get(error.errno or 0, "other")


@dataclass(slots=True)
class StoreCounters:
    """Counts events of a tier since its start; changed only on the event loop."""

    hits: int = 0
    misses: int = 0
    writes: int = 0
    evictions: int = 0
    corrupt: int = 0
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAILURE_KINDS, 0))

    def flat(self) -> dict[str, float]:
        """Return the counts by name; failures as ``failures_<kind>``."""
        counts = asdict(self)
        failures = counts.pop("failures")
        return counts | {f"failures_{kind}": count for kind, count in failures.items()}


class DiskUsage:
    """Disk usage by shard.

    A survey corrects one shard at a time, so changes in other shards meanwhile are not lost.
    """

    def __init__(self) -> None:
        self._shards = [NO_CHANGE] * SHARDS
        self.bytes = 0
        self.items = 0

    def add(self, shard: int, change: UsageChange) -> None:
        """Add files that were written or deleted."""
        before = self._shards[shard]
        self.set(shard, UsageChange(before.bytes + change.bytes, before.items + change.items))

    def set(self, shard: int, found: UsageChange) -> None:
        """Replace the usage of a shard by what a survey found."""
        before, self._shards[shard] = self._shards[shard], found
        self.bytes += found.bytes - before.bytes
        self.items += found.items - before.items


class DiskState:
    """Usage, counters and circuit breakers of a disk store; changed only on the event loop."""

    def __init__(self, settings: RenditionSettings, *, monotonic: Callable[[], float]) -> None:
        self._high_bytes = settings.disk_max_bytes
        self._low_water = settings.disk_low_water
        self._monotonic = monotonic
        self._written_bytes = 0
        self._forced = False
        # In the past, so that the first full disk forces an eviction at once.
        self._forced_at = -_FORCED_EVERY_S
        self.usage = DiskUsage()
        self.counters = StoreCounters()
        self.reads = CircuitBreaker("rendition_reads", pause_s=_PAUSE_S, clock=monotonic)
        self.writes = CircuitBreaker("rendition_writes", pause_s=_PAUSE_S, clock=monotonic)
        self.maintenance_due = asyncio.Event()

    def record_write(self, shard: int, change: UsageChange) -> None:
        """Count a stored rendition."""
        if self.writes.failing:
            self.writes.succeed()
        self.counters.writes += 1
        self.usage.add(shard, change)
        self._written_bytes += max(0, change.bytes)
        # Other processes may write to the same directory, and only a survey counts their files. A
        # survey is due when this process alone has written as many bytes as an eviction frees.
        slack_bytes = self._high_bytes * (1 - self._low_water)
        if self.usage.bytes > self._high_bytes or self._written_bytes > slack_bytes:
            self.maintenance_due.set()

    def record_corrupt(self, shard: int, change: UsageChange) -> None:
        """Count a file that was invalid and deleted."""
        self.counters.corrupt += 1
        self.usage.add(shard, change)

    def record_eviction(self, shard: int, change: UsageChange) -> None:
        """Count evicted files."""
        self.counters.evictions -= change.items
        self.usage.add(shard, change)

    def record_failure(self, error: OSError) -> str:
        """Count a failure and return its kind."""
        kind = failure_kind(error)
        self.counters.failures[kind] += 1
        return kind

    def record_read_failure(self, error: OSError) -> None:
        """Count a failed read; a timeout opens the breaker."""
        # Only a disk that hangs opens the breaker. One bad block does not affect other files.
        if self.record_failure(error) == "timeout":
            self.reads.trip("timeout")

    def record_write_failure(self, error: OSError) -> None:
        """Count a failed write and open the breaker; a full disk makes an eviction due."""
        kind = self.record_failure(error)
        self.writes.trip(kind)
        now = self._monotonic()
        if kind == "no_space" and now - self._forced_at >= _FORCED_EVERY_S:
            self._forced, self._forced_at = True, now
            self.maintenance_due.set()

    def start_survey(self) -> None:
        """Reset what makes maintenance due; writes from now on count for the next round."""
        self._written_bytes = 0
        self.maintenance_due.clear()

    def bytes_to_free(self) -> int:
        """Return how much to evict, 0 while usage is within the limit. Call it after a survey."""
        # A full disk forces one eviction, although usage is within our own limit.
        forced, self._forced = self._forced, False
        used = self.usage.bytes
        if used <= self._high_bytes and not forced:
            return 0
        # Above the limit: down to the low-water mark. Below it (the disk is full): the same share
        # of what is used.
        return used - int(self._low_water * min(used, self._high_bytes))
