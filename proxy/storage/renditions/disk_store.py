"""Renditions on disk. The directory is the index, so nothing is loaded at the start."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Generic, Self, TypeVar

from proxy.domain.errors import StorageError
from proxy.domain.variant import Shapes, Variant, same_content
from proxy.runtime.safe_open import OpenFile
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel
from proxy.runtime.thread_pool import ThreadPool
from proxy.settings import RenditionSettings
from proxy.storage.renditions.disk_state import (
    NO_CHANGE,
    SHARDS,
    DiskState,
    RenditionPaths,
    UsageChange,
    delete_medium,
    discard_all,
    shard_of,
)
from proxy.storage.renditions.hot_files import HotFiles
from proxy.storage.renditions.maintenance import DiskMaintenance, Use
from proxy.storage.renditions.rendition import (
    PIECE_BYTES,
    FileRendition,
    MemoryRendition,
    Rendition,
)
from proxy.storage.renditions.rendition_file import (
    Found,
    RenditionReader,
    WriteTicket,
    delete_file,
    probe,
    write_file,
)

_THREADS = 8
_FIRST_ROUND_AFTER_S = 1.0

_MAX_BATCHES = 2
"""Concurrent batches, so that one slow directory does not delay all other look-ups."""

K = TypeVar("K")
_T = TypeVar("_T")
_D = TypeVar("_D")


class DiskStore:
    """Renditions in a directory that several processes may share.

    A disk that fails is a miss or a dropped write, counted, never an error. Only a purge raises,
    because its caller must know whether it was done.

    In ``async with`` it keeps its size within the limit. ``in_use`` returns what is cached in
    memory: such a file counts as used although its hits do not reach this store.
    """

    def __init__(
        self,
        root: Path,
        settings: RenditionSettings,
        *,
        in_use: Callable[[], Collection[Use]] = tuple,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        timeout_s: float = 5.0,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        self._paths = RenditionPaths(str(root))
        self._max_bytes = settings.max_rendition_bytes
        self._threads = ThreadPool("renditions", count=_THREADS, timeout_s=timeout_s)
        self._hot_files = HotFiles(self._threads, monotonic=monotonic)
        self._listing = BatchLoader(self._threads, _list_digests)
        self._publishing = Lock()
        self._state = DiskState(settings, monotonic=monotonic)
        self._reader = RenditionReader(
            # What fits into memory is read as a whole, so that it can be promoted.
            whole_bytes=max(settings.memory_max_item_bytes, PIECE_BYTES),
            clock=clock,
        )
        self.maintenance = DiskMaintenance(
            self._paths,
            self._state,
            interval_s=settings.scan_interval_s,
            in_use=in_use,
            clock=clock,
        )
        self._supervisor = supervisor
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Create missing directories and start the background tasks.

        A directory that cannot be used does not raise; it counts as a failure, and `check` raises.
        """
        try:
            await self._threads.run(partial(probe, self._paths))
        except OSError as error:
            self._state.record_failure(error)
        self._tasks = [
            self._supervisor.start(
                BackgroundTask.RENDITION_MAINTENANCE,
                self.maintenance.run,
                first_after_s=_FIRST_ROUND_AFTER_S,
            ),
        ]
        return self

    async def __aexit__(self, *_error: object) -> None:
        """End the background tasks. Open renditions can only be closed from now on."""
        # The tasks use the thread pools, so they end first.
        await cancel(*self._tasks)
        await self.maintenance.aclose()
        self._hot_files.close()
        await self._threads.aclose()

    def read_now(self, variant: Variant) -> MemoryRendition | None:
        """Return a rendition that was read several times, verified; None if `first` must read it.

        Neither waits for the disk nor uses a thread.
        """
        body = self._hot_files.read(variant.digest)
        if body is None:
            return None
        self._state.counters.hits += 1
        return MemoryRendition(body, "disk")

    async def first(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        """Return the first of several variants of one medium that is stored, verified, or None.

        One thread job tries all of them: a miss of a final and of its draft costs one hop. A
        rendition that fits into memory, or of up to 256 KiB, is returned as a body, a longer one as
        an open file, which the caller closes.
        """
        names = [one.file_name for one in variants]
        work = partial(self._reader.first, self._paths.medium(variants[0].media_id), names)
        # A time-out or an open breaker counts as a miss of each.
        nothing: list[Found] = []
        results = await self._read(partial(self._threads.run, work, release=_close_last), nothing)
        for found in results:
            if isinstance(found, UsageChange):
                self._state.record_corrupt(shard_of(variants[0].media_id), found)
        # Only the last result can be a hit, because the search ends with it.
        last = results[-1] if results else None
        hit = isinstance(last, bytes | OpenFile)
        counters = self._state.counters
        counters.hits += hit
        counters.misses += (len(results) or len(variants)) - hit
        if hit:
            self._state.frequency.add(variants[len(results) - 1].digest)
        if isinstance(last, bytes):
            found_variant = variants[len(results) - 1]
            # Only the response cache reads a single variant, again for each hit.
            if len(variants) == 1:
                path = self._paths.rendition(found_variant)
                self._hot_files.record_read(found_variant.digest, path, len(last))
            return found_variant, MemoryRendition(last, "disk")
        if isinstance(last, OpenFile):
            return variants[len(results) - 1], FileRendition(last, self._threads)
        return None

    def look_up(self, media_id: int, file_name: str) -> tuple[Found, bool]:
        """Read a file of a medium, in the calling thread.

        Also return whether it exists, or one with the same content: its draft, or a rendition of
        another recipe. These are not verified.
        """
        directory = self._paths.medium(media_id)
        (found,) = self._reader.first(directory, (file_name,))
        # Most look-ups find the file: the directory is listed for the others only.
        if found is not None:
            return found, True
        digest = file_name.partition(".")[0]
        return None, any(same_content(one, digest) for one in _list_digests(directory))

    async def run(self, work: Callable[[], _T]) -> _T | None:
        """Run several look-ups in one thread job; return None if the disk hangs."""
        return await self._read(partial(self._threads.run, work), None)

    def record(self, variant: Variant, found: Found | OSError) -> MemoryRendition | None:
        """Count the result of one look-up; return the rendition if it is one in memory."""
        if isinstance(found, UsageChange):
            self._state.record_corrupt(shard_of(variant.media_id), found)
        elif isinstance(found, OSError):
            self._state.record_read_failure(found)
        elif isinstance(found, bytes):
            self._state.counters.hits += 1
            self._state.frequency.add(variant.digest)
            return MemoryRendition(found, "disk")
        # Not counted as a miss: the caller's request looks for the file again.
        return None

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of a medium's files; simultaneous calls share a thread hop.

        The files are not opened, so `first` may still be a miss.
        """
        nothing: AbstractSet[str] = frozenset()
        return await self._read(partial(self._listing.load, self._paths.medium(media_id)), nothing)

    async def put(self, ticket: WriteTicket, body: bytes) -> None:
        """Write a rendition, which becomes visible as a whole, unless its ticket is void.

        After a cancellation the thread publishes nothing.
        """
        state = self._state
        # The plain attribute first: `open` reads the clock.
        if ticket.void or (state.writes.failing and state.writes.open):
            return
        if len(body) > self._max_bytes:
            state.counters.failures["too_large"] += 1
            return
        work = partial(write_file, self._paths, ticket, body, publishing=self._publishing)
        try:
            change = await self._threads.run(work)
        except OSError as error:
            state.record_write_failure(error)
        else:
            if change is not None:
                state.record_write(shard_of(ticket.variant.media_id), change)
        finally:
            # After a time-out or a cancellation the thread may still run. It must not publish a
            # file that nobody counts.
            ticket.void = True

    async def delete(self, variant: Variant) -> int:
        """Delete one file if it exists; return the bytes of its rendition.

        A cancellation does not stop the thread.
        """
        try:
            path = self._paths.rendition(variant)
            # Shielded: a cancelled caller has already dropped it from memory.
            change, length = await self._threads.run(partial(delete_file, path), shielded=True)
        except OSError as error:
            self._state.record_failure(error)
            return 0
        self._state.usage.add(shard_of(variant.media_id), change)
        return length

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete a medium's renditions; return the number of files.

        The caller has voided the tickets of writes that have begun. A cancellation does not stop
        the thread.

        Raises:
            StorageError: files may still exist.
        """
        try:
            change = await self._threads.run(partial(self._purge, media_id, shapes), shielded=True)
        except OSError as error:
            self._state.record_failure(error)
            raise StorageError("renditions could not be deleted from the disk") from error
        self._state.usage.add(shard_of(media_id), change)
        return -change.items

    async def clear(self) -> None:
        """Remove the renditions of all media; raises as `purge` does.

        The maintenance deletes the files afterwards.
        """
        try:
            await self._threads.run(self._discard_all, shielded=True)
        except OSError as error:
            self._state.record_failure(error)
            raise StorageError("renditions could not be deleted from the disk") from error
        # An open file would be read as before until it is deleted.
        self._hot_files.forget()
        for shard in range(SHARDS):
            self._state.usage.set(shard, NO_CHANGE)
        self.maintenance.spare = None
        self._state.maintenance_due.set()

    def record_uses(self, digest: str, times: int) -> None:
        """Count hits in memory of a rendition that is not there any more."""
        self._state.frequency.add(digest, times)

    async def check(self) -> None:
        """Return if files can be created in the directory.

        Raises:
            StorageError: they cannot, or not in time.
        """
        try:
            await self._threads.run(partial(probe, self._paths))
        except OSError as error:
            raise StorageError("the rendition directory cannot be written") from error

    def statistics(self) -> Mapping[str, float]:
        """Return counts, bytes and items; bytes are whole blocks of 4 KiB."""
        state = self._state
        usage = {"bytes": state.usage.bytes, "items": state.usage.items}
        inodes = {"inodes": state.inodes.total, "inodes_free": state.inodes.free}
        return {
            **usage,
            **inodes,
            "discarded": state.discarded,
            **state.counters.flat(),
        }

    async def _read(self, work: Callable[[], Awaitable[_T]], default: _D) -> _T | _D:
        """Return the result of ``work``, or the default if the breaker is open or it fails."""
        # The plain attribute first: `open` reads the clock, and this runs for every look-up.
        if self._state.reads.failing and self._state.reads.open:
            return default
        try:
            result = await work()
        except OSError as error:
            self._state.record_read_failure(error)
            return default
        if self._state.reads.failing:
            self._state.reads.succeed()
        return result

    def _discard_all(self) -> None:
        self._await_writers()
        discard_all(self._paths)

    def _await_writers(self) -> None:
        # A writer that found its ticket valid before a purge holds this lock until its file has its
        # name, so a deletion after this finds the file. A later writer finds its ticket void.
        with self._publishing:
            pass

    def _purge(self, media_id: int, shapes: Shapes) -> UsageChange:
        self._await_writers()
        # A missing root means that its file system is away: the files come back with it.
        os.close(os.open(self._paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return delete_medium(self._paths.medium(media_id), shapes)


def _list_digests(directory: str) -> AbstractSet[str]:
    try:
        with os.scandir(directory) as entries:
            # The file name without its suffix is the digest.
            return frozenset(entry.name.partition(".")[0] for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _close_last(results: list[Found]) -> None:
    if isinstance(results[-1], OpenFile):
        results[-1].close()


class BatchLoader(Generic[K, _T]):
    """Answers many concurrent look-ups with few thread jobs (a DataLoader).

    Calls made while a batch runs are answered by the next one. Each thread hop wakes a thread that
    competes with the event loop for the interpreter. Under overload there would be hundreds of hops
    a second; batches bound their number.
    """

    def __init__(self, threads: ThreadPool, look_up: Callable[[K], _T]) -> None:
        """``look_up`` blocks and runs in one of ``threads``; an OSError fails its key only."""
        self._threads = threads
        self._look_up = look_up
        self._slots = asyncio.Semaphore(_MAX_BATCHES)
        self._next: tuple[set[K], asyncio.Task[Mapping[K, _T | OSError]]] | None = None
        """The keys and the task of the batch that has not begun."""

    async def load(self, key: K) -> _T:
        """Return the value of one key.

        Raises:
            OSError: the look-up raised it for this key, or did not finish in time.
        """
        if self._next is None:
            collected: set[K] = set()
            self._next = collected, asyncio.create_task(self._run(collected))
        keys, batch = self._next
        keys.add(key)
        # The limit includes the wait for a slot. The shield: a cancelled caller leaves the batch
        # to the others.
        async with asyncio.timeout(self._threads.timeout_s):
            found = (await asyncio.shield(batch))[key]
        if isinstance(found, OSError):
            raise found
        return found

    async def _run(self, keys: set[K]) -> Mapping[K, _T | OSError]:
        async with self._slots:
            # Later calls belong to the next batch.
            self._next = None
            try:
                return await self._threads.run(partial(self._look_up_all, keys))
            except OSError as error:
                # The pool is closed or hangs. Returned, because every caller may be gone.
                return dict.fromkeys(keys, error)

    def _look_up_all(self, keys: Collection[K]) -> Mapping[K, _T | OSError]:
        return {key: self._look_up_one(key) for key in keys}

    def _look_up_one(self, key: K) -> _T | OSError:
        try:
            return self._look_up(key)
        except OSError as error:
            return error
