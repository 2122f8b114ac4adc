"""Maintenance of the rendition directory: deletes stale files, counts usage, evicts.

It uses one thread, for some milliseconds at a time, and pauses for as long, so that it takes at
most half of the disk's time. Of several processes that share a directory, the one that holds its
lock surveys it. The others read what it found. A process that dies gives up the lock, and the next
one that wants it gets it.

A survey that evicts selects more files than it needs. The next rounds evict these and list no
directory, as long as this process may assume that its count of the usage is true.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple, TypeAlias, TypeVar

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
    SpareCandidates,
    enough,
    evict,
    record_uses,
    shards_present,
    survey,
)

_SPACING_S = 1.0
_BATCH = 512
_PIECE_S = 0.02
"""Work of the thread between two pauses. A shard of a small cache takes less than a thread hop and
a short sleep; one of a large cache takes longer than this alone."""
SPARE_ROUNDS = 3
"""Evictions without a survey that may follow one with a survey."""
_CLOCK_SKEW_S = 60.0
"""By how much the clock of a file server may be ahead."""

_log = structlog.get_logger()
_T = TypeVar("_T")
_Identity: TypeAlias = tuple[int, int]
"""Of a file: its inode and the time of its content, in nanoseconds."""


class Use(NamedTuple):
    """A rendition in memory, and how often it was hit there."""

    media_id: int
    file_name: str
    times: int


class Spare(NamedTuple):
    """The spare candidates of a survey."""

    files: SpareCandidates
    found_at: float
    usage_file: _Identity
    """Identity of the usage file that the survey has written."""


@dataclass(slots=True)
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
    spare: Spare | None = field(default=None, init=False)
    """Of the last survey, unless everything was purged since."""

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
        interval. If usage is above the limit, the spare candidates of the last survey come first.
        """
        self.state.start_survey()
        try:
            await self._record_uses()
            self.state.inodes = await self.threads.run(partial(_inodes_of, self.paths.root))
            now = self.clock()
            # A later time is from before the clock was set back: how old it is, is unknown.
            recent = (now - self.interval_s, now + _CLOCK_SKEW_S)
            if not due and await self._read_usage(*recent):
                return
            async with self._directory_lock() as acquired:
                # Another process surveys now. Its last survey is not far from the truth.
                if not acquired and await self._read_usage():
                    return
                await self.threads.run(
                    partial(delete_stale, self.paths.temporary, now=self.clock())
                )
                if acquired:
                    async for _ in self.delete_discarded():
                        pass
                    # A round that is not due surveys because the interval has passed.
                    if due and await self._evict_spare():
                        return
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

    async def _read_usage(self, after: float = 0.0, until: float = math.inf) -> bool:
        """Take over what a survey between two times has found; return whether there is one."""
        packed = await self.threads.run(partial(_read, self.paths.usage, after, until))
        try:
            if packed is not None:
                self.state.usage.unpack(packed)
        except ValueError:
            return False
        return packed is not None

    async def _evict_spare(self) -> bool:
        """Evict spare candidates of the last survey; return whether usage is within the limit."""
        spare, state, now = self.spare, self.state, self.clock()
        # Otherwise the round is due for another reason than the writes of this process, and only a
        # survey finds out how much space is used.
        if spare is None or not state.above_limit or state.files_to_free() > 0:
            return False
        if not 0 <= now - spare.found_at < self.interval_s:
            return False
        # If another process has surveyed since, it has evicted for the writes of this one as well.
        if await self.threads.run(partial(_identity_of, self.paths.usage)) != spare.usage_file:
            return False
        candidates = spare.files.candidates(frequency=state.frequency.estimate, now=now)
        await self._evict(enough(candidates, state.bytes_to_free()))
        return not state.above_limit

    async def _survey_and_evict(self, *, may_evict: bool) -> None:
        state, began = self.state, self.clock()
        self.spare = None
        expected, files = state.expected_to_free(), state.files_to_free()
        spare_bytes = SPARE_ROUNDS * state.slack_bytes
        # The files are selected in the pass that counts them. Others may have written meanwhile,
        # therefore more than expected.
        plan = None
        if may_evict and (expected > 0 or files > 0):
            need = expected + state.slack_bytes if expected else 0
            plan = EvictionPlan(need, files, wanted_bytes=expected + spare_bytes if expected else 0)
        present = await self._survey(plan)
        need, files = state.bytes_to_free(), min(files, state.usage.items)
        if may_evict and need > 0 and plan is None:
            plan = EvictionPlan(need, wanted_bytes=need + spare_bytes)
            await self._survey(plan)
        ranked = plan.candidates() if plan else iter(())
        await self._evict(enough(ranked, need, files))
        rest = await self._throttled(partial(SpareCandidates, ranked))
        # A directory that was removed, or never written to, gets no file.
        if may_evict and present:
            written = await self.threads.run(partial(_write, self.paths, state.usage.pack()))
            self.spare = Spare(rest, began, written)

    async def _survey(self, plan: EvictionPlan | None) -> frozenset[int]:
        """Count the usage of all shards, and add their files to a plan; return which exist."""
        usage, frequency, now = self.state.usage, self.state.frequency.estimate, self.clock()
        present = await self.threads.run(partial(shards_present, self.paths))
        for shard in frozenset(range(SHARDS)) - present:
            usage.set(shard, NO_CHANGE)
        surveys = (
            (shard, survey(self.paths.shard(shard), plan=plan, frequency=frequency, now=now))
            for shard in sorted(present)
        )
        async for shard, found in self._in_pieces(surveys):
            usage.set(shard, found)
        return present

    async def _evict(self, candidates: Iterable[EvictionCandidate]) -> None:
        files = total_bytes = 0
        async for batch in self._in_pieces(evict(candidates)):
            for one in batch:
                self.state.record_eviction(one.shard, UsageChange(-one.cost, -1))
                files, total_bytes = files + 1, total_bytes + one.cost
        if files:
            _log.info("renditions_evicted", files=files, bytes=total_bytes)

    async def _in_pieces(self, work: Iterator[_T]) -> AsyncIterator[_T]:
        """Iterate in the thread, `_PIECE_S` at a time, with pauses as long as the work."""
        loop = asyncio.get_running_loop()
        owed_s = 0.0
        while True:
            began = loop.time()
            done = await self.threads.run(partial(_piece_of, work))
            ended = loop.time()
            owed_s += ended - began
            # Before the pause: what is written from now on is not in the results. The thread rests
            # while they are used.
            for one in done:
                yield one
            if not done:
                return
            await asyncio.sleep(owed_s - (loop.time() - ended))
            # Timers are late by a millisecond, on a busy loop by more: the next pause is shorter.
            owed_s = max(owed_s - (loop.time() - ended), -_PIECE_S)

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


def _piece_of(work: Iterator[_T]) -> list[_T]:
    """Iterate for `_PIECE_S`; return the results, none at the end."""
    done, until = [], time.monotonic() + _PIECE_S
    for one in work:
        done.append(one)
        if time.monotonic() >= until:
            break
    return done


def _inodes_of(root: str) -> Inodes:
    """Return the inodes of the file system; no directory has none."""
    try:
        found = os.statvfs(root)
    except FileNotFoundError:
        return Inodes(0, 0)
    return Inodes(found.f_files, found.f_favail)


def _read(path: str, after: float, until: float) -> bytes | None:
    """Return the content of a file; None if it is missing or was not written between two times."""
    with suppress(FileNotFoundError):
        file = Path(path)
        return file.read_bytes() if after < file.stat().st_mtime <= until else None
    return None


def _write(paths: RenditionPaths, content: bytes) -> _Identity:
    """Replace the file of usage; return its identity."""
    with TempFile(paths.temporary) as file:
        os.write(file.descriptor, content)
        file.replace(paths.usage)
        return _identity(os.fstat(file.descriptor))


def _identity_of(path: str) -> _Identity | None:
    with suppress(FileNotFoundError):
        return _identity(Path(path).stat())
    return None


def _identity(status: os.stat_result) -> _Identity:
    return status.st_ino, status.st_mtime_ns
