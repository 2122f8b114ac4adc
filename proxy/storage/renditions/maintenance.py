"""Maintenance of the rendition directory: deletes stale files, counts usage, evicts.

It uses one thread and pauses after each shard for as long as that took, so that it takes at most
half of the disk's time. Of several processes that share a directory, one evicts at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from shutil import rmtree
from typing import TypeVar

import structlog

from proxy.runtime.tempfiles import delete_stale
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.disk_state import (
    NO_CHANGE,
    SHARDS,
    DiskState,
    RenditionPaths,
    UsageChange,
    discarded,
)
from proxy.storage.renditions.eviction import (
    EvictionPlan,
    evict,
    shard_files,
    shards_present,
    survey,
)

_SPACING_S = 1.0
_BATCH = 256

_log = structlog.get_logger()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DiskMaintenance:
    """Maintains one directory; failures are counted and retried in the next round."""

    paths: RenditionPaths
    state: DiskState
    interval_s: float
    in_memory: Callable[[str], bool]
    clock: Callable[[], float]
    threads: ThreadPool = field(
        default_factory=partial(ThreadPool, "rendition-maintenance", count=1, timeout_s=None)
    )

    async def run(self) -> None:
        """Run a round now, and then whenever one is due, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self.run_round()
            # A long round is followed by a pause of the same length.
            await asyncio.sleep(max(_SPACING_S, loop.time() - began))
            # The time-out means that the interval has passed and nothing made a round due earlier.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval_s):
                    await self.state.maintenance_due.wait()

    async def run_round(self) -> None:
        """Sweep, survey, and evict if usage is too high and no other process evicts."""
        self.state.start_survey()
        try:
            async with self._directory_lock() as acquired:
                await self.threads.run(
                    partial(delete_stale, self.paths.temporary, now=self.clock())
                )
                if acquired:
                    async for _ in self.delete_discarded():
                        pass
                # Every process counts, because each reports its usage. Only the eviction needs the
                # lock.
                present = await self._survey()
                need = self.state.bytes_to_free()
                if acquired and need > 0:
                    await self._evict(need, present)
        except OSError as error:
            self.state.record_failure(error)

    async def delete_discarded(self) -> AsyncIterator[int]:
        """Delete what a purge of everything has left; yield the number of shards before each."""
        while directories := await self.threads.run(partial(discarded, self.paths)):
            self.state.discarded = len(directories)
            yield len(directories)
            # One at a time, so that a stop waits for one at most.
            await self._throttled(partial(rmtree, directories[0], ignore_errors=True))
            if await self.threads.run(partial(os.path.lexists, directories[0])):
                # The disk refuses. The next round tries again.
                return
        self.state.discarded = 0

    async def aclose(self) -> None:
        """Wait for the running piece of work; cancel `run` before."""
        await self.threads.aclose()

    @asynccontextmanager
    async def _directory_lock(self) -> AsyncIterator[bool]:
        """Hold the lock of the directory; yield False if another process holds it."""
        descriptor = await self.threads.run(partial(_lock, self.paths.root), release=_unlock)
        try:
            yield descriptor is not None
        finally:
            _unlock(descriptor)

    async def _survey(self) -> frozenset[int]:
        """Count the usage of all shards; return the shards that exist."""
        # A thread hop for each shard of an empty cache would take 0.4 s on a busy machine.
        present = await self.threads.run(partial(shards_present, self.paths))
        for shard in range(SHARDS):
            found = NO_CHANGE
            if shard in present:
                path = self.paths.shard(shard)
                work = partial(survey, path, in_memory=self.in_memory, now=self.clock())
                found = await self._throttled(work)
            self.state.usage.set(shard, found)
        return present

    async def _evict(self, need: int, present: frozenset[int]) -> None:
        plan = EvictionPlan(need)
        for shard in present:
            # A generator: the thread that runs `add` lists the files.
            files = shard_files(self.paths.shard(shard))
            await self._throttled(partial(plan.add, files))
        candidates = plan.candidates()
        for start in range(0, len(candidates), _BATCH):
            # A batch is deleted in one thread hop; the counters are updated after each.
            batch = candidates[start : start + _BATCH]
            for one in await self._throttled(partial(evict, batch)):
                self.state.record_eviction(one.shard, UsageChange(-one.cost, -1))
        _log.info("renditions_evicted", files=len(candidates), bytes=need)

    async def _throttled(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await self.threads.run(work)
        await asyncio.sleep(loop.time() - began)
        return result


def _lock(root: str) -> int | None:
    """Lock the root and return its descriptor; None if it is locked or does not exist."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # The kernel releases the lock when the process ends, even if it is killed.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        # Closing the only descriptor of the open file releases its lock (flock(2)).
        os.close(descriptor)
