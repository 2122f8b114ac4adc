"""The writer of the disk store: collects bytes in memory and writes them in large pieces."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.disk_state import DiskState
from proxy.storage.renditions.file_write import AtomicFileWriter
from proxy.storage.renditions.memory_store import PIECE_BYTES
from proxy.storage.renditions.paths import UsageChange


class DiskWriter:
    """Writes a rendition to disk; one of up to 256 KiB needs a single thread hop."""

    def __init__(
        self, threads: ThreadPool, state: DiskState, *, file: AtomicFileWriter, max_bytes: int
    ) -> None:
        self._threads = threads
        self._state = state
        self._file = file
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._pending_bytes = 0
        self._length = 0
        self._flushed = False
        # While the breaker is open, the bytes would be collected in vain.
        self._accepting = not (state.writes.failing and state.writes.open)

    async def write(self, chunk: bytes) -> None:
        """Append bytes; after a disk error, or above the size limit, this does nothing."""
        if not self._accepting:
            return
        self._pieces.append(chunk)
        self._pending_bytes += len(chunk)
        self._length += len(chunk)
        if self._length > self._max_bytes:
            self._accepting = False
            # Only this tier gives up: the caller continues to write for the response.
            self._state.counters.failures["too_large"] += 1
        elif self._pending_bytes >= PIECE_BYTES:
            await self._flush()

    async def publish(self) -> UsageChange | None:
        """Give the complete file its name; return the change of usage, or None.

        If this is cancelled, the file may still be published unless its ticket is void.
        """
        if not self._accepting or not self._length:
            await self.discard()
            return None
        try:
            return await self._threads.run(partial(self._file.publish, self._pieces), shielded=True)
        except OSError as error:
            self._fail(error)
            return None
        finally:
            # After a time-out the thread may still run. It must not publish a file that a later
            # purge cannot void, because the ticket is unregistered now.
            self._file.ticket.void = True

    async def discard(self) -> None:
        """Drop the rendition and delete its temporary file, as soon as the disk responds."""
        self._accepting = False
        self._pieces.clear()
        if self._flushed:
            with suppress(OSError):
                await self._threads.run(self._file.discard, shielded=True)

    async def _flush(self) -> None:
        # Handed over before the await: after a cancellation they must not be written a second time.
        pieces, self._pieces, self._pending_bytes = self._pieces, [], 0
        self._flushed = True
        try:
            await self._threads.run(partial(self._file.append, pieces), shielded=True)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._accepting = False
        self._state.record_write_failure(error)
