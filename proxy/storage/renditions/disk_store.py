"""Renditions on disk: the directory is the index; nothing to corrupt, nothing to load at start."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import structlog

from proxy.domain.errors import StorageError
from proxy.domain.variant import Shapes, Variant
from proxy.runtime.batch_loader import BatchLoader
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel
from proxy.runtime.thread_pool import ThreadPool
from proxy.settings import RenditionSettings
from proxy.storage.renditions import Rendition, file_trailer
from proxy.storage.renditions.disk_state import DiskState
from proxy.storage.renditions.disk_writer import DiskWriter
from proxy.storage.renditions.file_delete import discard, remove_medium
from proxy.storage.renditions.file_read import RenditionReader
from proxy.storage.renditions.file_write import AtomicFileWriter, FileTarget, probe
from proxy.storage.renditions.maintenance import DiskMaintenance
from proxy.storage.renditions.memory_store import PIECE_BYTES, MemoryRendition
from proxy.storage.renditions.open_file import FileRendition, OpenFile
from proxy.storage.renditions.paths import RenditionPaths, UsageChange, shard_of
from proxy.storage.renditions.purge_log import PurgeEntry, PurgeLog
from proxy.storage.renditions.write_tickets import WriteRegistry

_THREADS = 8
_FOLLOW_EVERY_S = 1.0
_FIRST_ROUND_AFTER_S = 1.0

_log = structlog.get_logger()


def _ignore(purge: PurgeEntry) -> None:
    del purge


def _never(digest: str) -> bool:
    del digest
    return False


class DiskStore:
    """A `RenditionStore` in a directory that several processes may share.

    Between `start` and `aclose` (or in ``async with``) it keeps its size within the limit and
    hears of purges by others: ``on_purge`` is called with each, on the loop, and must
    neither wait nor raise. ``held`` tells from any thread whether a digest is in memory before
    this store, so that files whose hits never come here are not taken for unused.
    """

    def __init__(
        self,
        root: Path,
        settings: RenditionSettings,
        *,
        on_purge: Callable[[PurgeEntry], None] = _ignore,
        held: Callable[[str], bool] = _never,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        timeout_s: float = 5.0,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        self._layout = RenditionPaths(str(root))
        self._max_bytes = settings.max_rendition_bytes
        self._on_purge = on_purge
        self._threads = ThreadPool("renditions", count=_THREADS, timeout_s=timeout_s)
        self._listing = BatchLoader(self._threads, _listed)
        self._following = ThreadPool("rendition-purges", count=1, timeout_s=None)
        self._underway = WriteRegistry()
        self._publishing = Lock()
        self._log = PurgeLog(self._layout.purges)
        self._ledger = DiskState(settings, monotonic=monotonic)
        self._reader = RenditionReader(
            whole_bytes=max(settings.memory_max_item_bytes, PIECE_BYTES), clock=clock
        )
        self._housekeeping = DiskMaintenance(
            self._layout,
            self._ledger,
            interval_s=settings.scan_interval_s,
            held=held,
            clock=clock,
        )
        self._supervisor = supervisor
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """As `start`."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """As `aclose`."""
        await self.aclose()

    async def start(self) -> None:
        """Make the directory where it is missing and begin the housekeeping.

        Nothing is read in, and a directory that cannot be used is a counted failure: `check`
        tells.
        """
        try:
            await self._threads.run(partial(probe, self._layout))
            await self._following.run(self._log.skip_to_end)
        except OSError as error:
            self._ledger.failed(error)
        self._tasks = [
            self._supervisor.start(
                BackgroundTask.RENDITION_MAINTENANCE,
                self._housekeeping.run,
                first_after_s=_FIRST_ROUND_AFTER_S,
            ),
            self._supervisor.start(
                BackgroundTask.PURGE_LOG,
                self.hear,
                every_s=_FOLLOW_EVERY_S,
                first_after_s=_FOLLOW_EVERY_S,
            ),
        ]

    async def aclose(self) -> None:
        """End the background work; renditions still open cannot be read on, but must be closed."""
        tasks, self._tasks = self._tasks, []
        await cancel(*tasks)
        await self._housekeeping.aclose()
        await self._following.aclose()
        await self._threads.aclose()
        self._log.close()

    async def get(self, variant: Variant) -> Rendition | None:
        """The whole, checked rendition, or None; whoever gets it closes it.

        Up to the longest that memory takes (and 256 KiB at least) it comes as a body, in one
        thread hop; a longer one as an open file.
        """
        rendition = await self._open(variant)
        if rendition is None:
            self._ledger.counters.misses += 1
        else:
            self._ledger.counters.hits += 1
        return rendition

    async def contains(self, variant: Variant) -> bool:
        """Whether a file of that name stands there; it is not opened, so `get` may still miss."""
        if self._ledger.reads.open:
            return False
        try:
            return await self._threads.run(partial(_stands, self._layout.rendition(variant)))
        except OSError as error:
            self._ledger.read_failed(error)
            return False

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Digests of the variants of a medium whose files stand there; one hop for many."""
        if self._ledger.reads.open:
            return frozenset()
        try:
            return await self._listing.ask(self._layout.medium(media_id))
        except OSError as error:
            self._ledger.read_failed(error)
            return frozenset()

    @asynccontextmanager
    async def writer(self, variant: Variant) -> AsyncIterator[DiskWriter]:
        """Take in a rendition as it is made.

        It becomes visible, whole, when the block ends without error; else its temporary file is
        gone when the block has ended. One whose medium is purged meanwhile in this process is
        dropped; a purge in another process reaches it within about a second.
        """
        with self._underway.ticket(variant) as ticket:
            spool = AtomicFileWriter(self._layout, self._publishing)
            writer = DiskWriter(self._threads, self._ledger, spool=spool, max_bytes=self._max_bytes)
            try:
                yield writer
            except BaseException:
                await writer.discard()
                raise
            target = FileTarget(self._layout.rendition(variant), variant.digest, ticket)
            change = await writer.publish(target)
            if change is not None:
                self._ledger.wrote(shard_of(variant.media_id), change)

    async def drop(self, variant: Variant) -> None:
        """Remove one file, if it is there; once cancelled, it still runs to its end."""
        try:
            change = await self._threads.finish(partial(discard, self._layout.rendition(variant)))
        except OSError as error:
            self._ledger.failed(error)
            return
        self._ledger.usage.add(shard_of(variant.media_id), change)

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Drop renditions of a medium and tell the other processes; gives how many files.

        Writes that have begun are void from here on; once cancelled, it still runs to its end.

        Raises:
            StorageError: files may still be there, or the others could not be told.
        """
        self._underway.purge(media_id, shapes)
        try:
            change = await self._threads.finish(partial(self._remove, PurgeEntry(media_id, shapes)))
        except OSError as error:
            self._ledger.failed(error)
            raise StorageError("renditions could not be removed from the disk") from error
        self._ledger.usage.add(shard_of(media_id), change)
        return -change.items

    async def check(self) -> None:
        """Return when files can be made in the directory.

        Raises:
            StorageError: they cannot, or not in time.
        """
        try:
            await self._threads.run(partial(probe, self._layout))
        except OSError as error:
            raise StorageError("the rendition directory cannot be written") from error

    async def tend(self) -> None:
        """Set usage right and evict where it is due, now; the housekeeping does this by itself."""
        await self._housekeeping.tend()

    async def hear(self) -> None:
        """Hear of purges by others, now; done each second in the background."""
        try:
            purged = await self._following.run(self._log.read)
        except OSError as error:
            self._ledger.failed(error)
            return
        for purge in purged:
            self._underway.purge(purge.media_id, purge.shapes)
            self._on_purge(purge)

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """The counts of the one tier ``disk``; bytes are whole blocks of 4 KiB."""
        usage = {"bytes": self._ledger.usage.bytes, "items": self._ledger.usage.items}
        return {"disk": {**usage, **self._ledger.counters.flat()}}

    async def _open(self, variant: Variant) -> Rendition | None:
        if self._ledger.reads.open:
            return None
        work = partial(self._reader.fetch, self._layout.rendition(variant), variant.digest)
        try:
            found = await self._threads.run(work, release=_close_late)
        except OSError as error:
            self._ledger.read_failed(error)
            return None
        self._ledger.reads.succeed()
        if isinstance(found, bytes):
            return MemoryRendition(found, "disk")
        if isinstance(found, OpenFile):
            return FileRendition(found, self._threads)
        if isinstance(found, UsageChange):
            self._ledger.found_corrupt(shard_of(variant.media_id), found)
        return None

    def _remove(self, purge: PurgeEntry) -> UsageChange:
        # A write that found its ticket good before the purge has renamed its file by the time the
        # lock is free; one that comes later finds its ticket void.
        with self._publishing:
            pass
        try:
            return remove_medium(self._layout.medium(purge.media_id), purge.shapes)
        finally:
            self._log.append(purge)


def _stands(path: str) -> bool:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > file_trailer.SIZE


def _listed(directory: str) -> AbstractSet[str]:
    try:
        with os.scandir(directory) as entries:
            return frozenset(entry.name.partition(".")[0] for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _close_late(found: object) -> None:
    if isinstance(found, OpenFile):
        found.close()
