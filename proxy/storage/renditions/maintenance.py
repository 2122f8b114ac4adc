"""Maintenance of the rendition directory: deletes stale files, counts usage, evicts.

It uses one thread and pauses after each shard for as long as that took, so that it takes at most
half of the disk's time. Of several processes that share a directory, the one that holds its lock
surveys it. The others read what it found. A process that dies gives up the lock, and the next one
that wants it gets it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple, TypeVar

import structlog

from proxy.runtime.tempfiles import TempFile, delete_stale
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.disk_state import (
    NO_CHANGE,
    SHARDS,
    DiskState,
    Inodes,
    RenditionPaths,
    UsageChange,
    discarded,
)
from proxy.storage.renditions.eviction import (
    EvictionCandidate,
    EvictionPlan,
    evict,
    record_uses,
    shards_present,
    survey,
)

_SPACING_S = 1.0
_BATCH = 512

_log = structlog.get_logger()
_T = TypeVar("_T")


class Use(NamedTuple):
    """A rendition in memory, and how often it was hit there."""

    media_id: int
    file_name: str
    times: int


@dataclass(frozen=True, slots=True)
class DiskMaintenance:
    """Maintains one directory; failures are counted and retried in the next round."""

    paths: RenditionPaths
    state: DiskState
    interval_s: float
    in_use: Callable[[], Collection[Use]]
    clock: Callable[[], float]
    threads: ThreadPool = field(
        default_factory=partial(ThreadPool, "rendition-maintenance", count=1, timeout_s=None)
    )

    async def run(self) -> None:
        """Run a round now, and then whenever one is due, until cancelled."""
        loop = asyncio.get_running_loop()
        due = True
        while True:
            began = loop.time()
            await self.run_round(due=due)
            # A long round is followed by a pause of the same length.
            await asyncio.sleep(max(_SPACING_S, loop.time() - began))
            # The time-out means that the interval has passed and nothing made a round due earlier.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval_s):
                    await self.state.maintenance_due.wait()
            due = self.state.maintenance_due.is_set()

    async def run_round(self, *, due: bool = True) -> None:
        """Survey the directory and evict, or read what another process has found.

        Unless the round is ``due``, the survey of another process counts if it is newer than the
        interval.
        """
        self.state.start_survey()
        try:
            await self._record_uses()
            self.state.inodes = await self.threads.run(partial(_inodes_of, self.paths.root))
            if not due and await self._read_usage(newer_than=self.clock() - self.interval_s):
                return
            async with self._directory_lock() as acquired:
                # Another process surveys now. Its last survey is not far from the truth.
                if not acquired and await self._read_usage(newer_than=0.0):
                    return
                await self.threads.run(
                    partial(delete_stale, self.paths.temporary, now=self.clock())
                )
                if acquired:
                    async for _ in self.delete_discarded():
                        pass
                await self._survey_and_evict(may_evict=acquired)
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

    async def _record_uses(self) -> None:
        """Mark what was hit in memory as used, and count how often."""
        uses, frequency = list(self.in_use()), self.state.frequency
        for start in range(0, len(uses), _BATCH):
            batch = uses[start : start + _BATCH]
            for one in batch:
                frequency.raise_to(one.file_name.partition(".")[0], one.times)
            paths = [f"{self.paths.medium(one.media_id)}/{one.file_name}" for one in batch]
            await self._throttled(partial(record_uses, paths, now=self.clock()))

    async def _read_usage(self, *, newer_than: float) -> bool:
        """Take over the usage that a survey found after a time; return whether there is one."""
        packed = await self.threads.run(partial(_read, self.paths.usage, newer_than))
        try:
            if packed is not None:
                self.state.usage.unpack(packed)
        except ValueError:
            return False
        return packed is not None

    async def _survey_and_evict(self, *, may_evict: bool) -> None:
        state = self.state
        expected, files = state.expected_to_free(), state.files_to_free()
        # The files are selected in the pass that counts them. Others may have written meanwhile,
        # therefore more than expected.
        plan = None
        if may_evict and (expected > 0 or files > 0):
            plan = EvictionPlan(expected + state.slack_bytes if expected else 0, files)
        present = await self._survey(plan)
        need, files = state.bytes_to_free(), min(files, state.usage.items)
        if may_evict and (need > 0 or files > 0):
            if plan is None:
                plan = EvictionPlan(need)
                await self._survey(plan)
            await self._evict(plan.candidates(need, files))
        # A directory that was removed, or never written to, gets no file.
        if may_evict and present:
            await self.threads.run(partial(_write, self.paths, state.usage.pack()))

    async def _survey(self, plan: EvictionPlan | None) -> frozenset[int]:
        """Count the usage of all shards, and add their files to a plan; return which exist."""
        # A thread hop for each shard of an empty cache would take 0.4 s on a busy machine.
        present = await self.threads.run(partial(shards_present, self.paths))
        for shard in range(SHARDS):
            found = NO_CHANGE
            if shard in present:
                path = self.paths.shard(shard)
                estimate = self.state.frequency.estimate
                work = partial(survey, path, plan=plan, frequency=estimate, now=self.clock())
                found = await self._throttled(work)
            self.state.usage.set(shard, found)
        return present

    async def _evict(self, candidates: Sequence[EvictionCandidate]) -> None:
        for start in range(0, len(candidates), _BATCH):
            # A batch is deleted in one thread hop; the counters are updated after each.
            batch = candidates[start : start + _BATCH]
            for one in await self._throttled(partial(evict, batch)):
                self.state.record_eviction(one.shard, UsageChange(-one.cost, -1))
        _log.info(
            "renditions_evicted", files=len(candidates), bytes=sum(one.cost for one in candidates)
        )

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


def _inodes_of(root: str) -> Inodes:
    """Return the inodes of the file system; no directory has none."""
    try:
        found = os.statvfs(root)
    except FileNotFoundError:
        return Inodes(0, 0)
    return Inodes(found.f_files, found.f_favail)


def _read(path: str, newer_than: float) -> bytes | None:
    """Return the content of a file; None if it is missing or not newer than a time."""
    with suppress(FileNotFoundError):
        file = Path(path)
        return file.read_bytes() if file.stat().st_mtime > newer_than else None
    return None


def _write(paths: RenditionPaths, content: bytes) -> None:
    with TempFile(paths.temporary) as file:
        os.write(file.descriptor, content)
        file.replace(paths.usage)
