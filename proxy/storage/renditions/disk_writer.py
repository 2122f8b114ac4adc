"""The writer of the disk store: bytes gather in memory and go to the file in large pieces."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.disk_state import DiskState
from proxy.storage.renditions.file_write import AtomicFileWriter, FileTarget
from proxy.storage.renditions.memory_store import PIECE_BYTES
from proxy.storage.renditions.paths import UsageChange


class DiskWriter:
    """A rendition on its way to the disk; one of up to 256 KiB costs one thread hop in all."""

    def __init__(
        self, threads: ThreadPool, ledger: DiskState, *, spool: AtomicFileWriter, max_bytes: int
    ) -> None:
        self._threads = threads
        self._ledger = ledger
        self._spool = spool
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._pending_bytes = 0
        self._length = 0
        self._spilled = False
        self._accepting = not ledger.writes.open

    async def write(self, chunk: bytes) -> None:
        """Append bytes; after a failure of the disk, or past the limit, this does nothing."""
        if not self._accepting:
            return
        self._pieces.append(chunk)
        self._pending_bytes += len(chunk)
        self._length += len(chunk)
        if self._length > self._max_bytes:
            self._accepting = False
            self._ledger.counters.failures["too_large"] += 1
        elif self._pending_bytes >= PIECE_BYTES:
            await self._spill()

    async def publish(self, target: FileTarget) -> UsageChange | None:
        """Put the rendition in place, whole and at once; gives the change of usage, if any.

        When this is cancelled the file may still come into place, unless its ticket is void.
        """
        if not self._accepting or not self._length:
            await self.discard()
            return None
        try:
            work = partial(self._spool.publish, self._pieces, target)
            return await self._threads.finish(work)
        except OSError as error:
            self._fail(error)
            return None
        finally:
            target.ticket.void = True  # what still runs after a time-out is out of a purge's reach

    async def discard(self) -> None:
        """Drop the rendition; its temporary file is gone then, or as soon as the disk answers."""
        self._accepting = False
        self._pieces.clear()
        if self._spilled:
            with suppress(OSError):
                await self._threads.finish(self._spool.discard)

    async def _spill(self) -> None:
        pieces, self._pieces, self._pending_bytes = self._pieces, [], 0
        self._spilled = True
        try:
            await self._threads.finish(partial(self._spool.append, pieces))
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._accepting = False
        self._ledger.write_failed(error)
