"""What a disk store knows of itself: usage, counts, breakers, and whether an eviction is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.settings import RenditionSettings
from proxy.storage.renditions.counters import StoreCounters, failure_kind
from proxy.storage.renditions.eviction import DiskUsage
from proxy.storage.renditions.paths import UsageChange

_PAUSE_S = 5.0
_FORCED_EVERY_S = 60.0
"""How often a disk that is full below our own limit may cost a part of the cache: somebody else
may be filling it."""


class DiskState:
    """The books of a disk store; changed on the loop only."""

    def __init__(self, settings: RenditionSettings, *, monotonic: Callable[[], float]) -> None:
        self._high_bytes = settings.disk_max_bytes
        self._low_water = settings.disk_low_water
        self._monotonic = monotonic
        self._written_bytes = 0
        self._forced = False
        self._forced_at = -_FORCED_EVERY_S
        self.usage = DiskUsage()
        self.counters = StoreCounters()
        self.reads = CircuitBreaker("rendition_reads", pause_s=_PAUSE_S, clock=monotonic)
        self.writes = CircuitBreaker("rendition_writes", pause_s=_PAUSE_S, clock=monotonic)
        self.tending_due = asyncio.Event()

    def wrote(self, shard: int, change: UsageChange) -> None:
        """A rendition was kept."""
        self.writes.succeed()
        self.counters.writes += 1
        self.usage.add(shard, change)
        self._written_bytes += max(0, change.bytes)
        # Others may write to the same directory: their part shows only when it is surveyed.
        slack_bytes = self._high_bytes * (1 - self._low_water)
        if self.usage.bytes > self._high_bytes or self._written_bytes > slack_bytes:
            self.tending_due.set()

    def found_corrupt(self, shard: int, change: UsageChange) -> None:
        """A file was in doubt and deleted."""
        self.counters.corrupt += 1
        self.usage.add(shard, change)

    def evicted(self, shard: int, change: UsageChange) -> None:
        """Files went for want of room."""
        self.counters.evictions -= change.items
        self.usage.add(shard, change)

    def failed(self, error: OSError) -> str:
        """Count a failure; gives its kind."""
        kind = failure_kind(error)
        self.counters.failures[kind] += 1
        return kind

    def read_failed(self, error: OSError) -> None:
        """Only a disk that hangs is left alone by readers: a bad block is no reason to."""
        if self.failed(error) == "timeout":
            self.reads.trip("timeout")

    def write_failed(self, error: OSError) -> None:
        """Leave the disk alone for a while; a full one is also made room on."""
        kind = self.failed(error)
        self.writes.trip(kind)
        now = self._monotonic()
        if kind == "no_space" and now - self._forced_at >= _FORCED_EVERY_S:
            self._forced, self._forced_at = True, now
            self.tending_due.set()

    def tending(self) -> None:
        """A survey begins."""
        self._written_bytes = 0
        self.tending_due.clear()

    def bytes_to_free(self) -> int:
        """How much has to go, asked once after a survey; 0 while usage is within the limit."""
        forced, self._forced = self._forced, False
        used = self.usage.bytes
        if used <= self._high_bytes and not forced:
            return 0
        return used - int(self._low_water * min(used, self._high_bytes))
