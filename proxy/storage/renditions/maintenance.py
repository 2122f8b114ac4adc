"""Housekeeping of a directory of renditions: usage set right, evictions, stale files swept.

It runs beside the serving in a thread of its own, and rests between shards for as long as a shard
took. Of several processes that share a directory one evicts at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import structlog

from proxy.runtime.tempfiles import sweep
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.disk_state import DiskState
from proxy.storage.renditions.eviction import EvictionPlan, evict, shards_present, survey
from proxy.storage.renditions.paths import SHARDS, RenditionPaths, UsageChange

_SPACING_S = 1.0
_BATCH = 256

_log = structlog.get_logger()
_T = TypeVar("_T")


class DiskMaintenance:
    """Keeps one directory in order; failures are counted and tried again at the next round."""

    def __init__(
        self,
        layout: RenditionPaths,
        ledger: DiskState,
        *,
        interval_s: float,
        held: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._layout = layout
        self._ledger = ledger
        self._interval_s = interval_s
        self._held = held
        self._clock = clock
        self._threads = ThreadPool("rendition-care", count=1, timeout_s=None)

    async def run(self) -> None:
        """Run a round now, and then whenever one is due, until cancelled."""
        while True:
            began = asyncio.get_running_loop().time()
            await self.tend()
            took_s = asyncio.get_running_loop().time() - began
            await asyncio.sleep(max(_SPACING_S, took_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._ledger.tending_due.wait()

    async def tend(self) -> None:
        """One round: sweep, survey, and evict if that shows too much and no other process does."""
        self._ledger.tending()
        try:
            async with self._turn() as ours:
                await self._threads.run(partial(sweep, self._layout.temporary, clock=self._clock))
                present = await self._survey()
                need = self._ledger.bytes_to_free()
                if ours and need > 0:
                    await self._evict(need, present)
        except OSError as error:
            self._ledger.failed(error)

    async def aclose(self) -> None:
        """Wait for the piece of work that is under way; `run` has to be cancelled before."""
        await self._threads.aclose()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Hold the lock of the directory, or tell that another process does."""
        descriptor = await self._threads.run(partial(_lock, self._layout.root), release=_unlock)
        try:
            yield descriptor is not None
        finally:
            _unlock(descriptor)

    async def _survey(self) -> frozenset[int]:
        """Set usage right; gives the shards that are there."""
        present = await self._threads.run(partial(shards_present, self._layout))
        for shard in range(SHARDS):
            found = UsageChange(0, 0)
            if shard in present:
                path = self._layout.shard(shard)
                work = partial(survey, path, held=self._held, now=self._clock())
                found = await self._at_leisure(work)
            self._ledger.usage.set(shard, found)
        return present

    async def _evict(self, need: int, present: frozenset[int]) -> None:
        oldest = EvictionPlan(need)
        for shard in present:
            await self._at_leisure(partial(oldest.add_shard, self._layout.shard(shard)))
        entries = oldest.entries()
        for start in range(0, len(entries), _BATCH):
            gone = await self._at_leisure(partial(evict, entries[start : start + _BATCH]))
            for entry in gone:
                self._ledger.evicted(entry.shard, UsageChange(-entry.cost, -1))
        _log.info("renditions evicted", files=len(entries), bytes=need)

    async def _at_leisure(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await self._threads.run(work)
        await asyncio.sleep(loop.time() - began)
        return result


def _lock(root: str) -> int | None:
    """The root's descriptor with its lock, which ends with the process; None where it is taken."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
