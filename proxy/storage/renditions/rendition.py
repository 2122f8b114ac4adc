"""The bytes that answer a variant: in memory, or in an open file that threads read in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from proxy.domain.errors import StorageError
from proxy.domain.formats import SNIFF_BYTES
from proxy.runtime.safe_open import OpenFile
from proxy.runtime.thread_pool import ThreadPool

PIECE_BYTES = 256 * 1024
"""The largest piece of a rendition that is read or sent at once."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class MemoryRendition:
    """A complete rendition in memory.

    A weak reference to it becomes invalid when the store has dropped it and nobody is sending it.
    """

    body: bytes
    tier: str = "memory"
    """Where it was found: ``memory`` or ``disk``."""

    @property
    def length(self) -> int:
        """Number of bytes of the whole rendition."""
        return len(self.body)

    @property
    def head(self) -> bytes:
        """The first bytes, enough to detect the format."""
        return self.body[:SNIFF_BYTES]

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop`` in pieces of at most 256 KiB."""
        # In pieces, so that a slow client does not copy the whole body into its send buffer.
        for offset in range(start, stop, PIECE_BYTES):
            yield self.body[offset : min(offset + PIECE_BYTES, stop)]

    def close(self) -> None:
        """Do nothing."""


class FileRendition:
    """A rendition in an open file; it stays readable after the file is evicted or purged."""

    tier = "disk"
    body = None

    def __init__(self, file: OpenFile, threads: ThreadPool) -> None:
        self.length = file.length
        self.head = file.head
        self.close = file.close
        self._file = file
        self._threads = threads

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop`` in pieces of at most 256 KiB.

        Raises:
            StorageError: the file cannot be read to its end; the pieces before are incomplete.
        """
        for offset in range(start, stop, PIECE_BYTES):
            length = min(PIECE_BYTES, stop - offset)
            # A thread for each piece: while a slow client receives it, no thread waits.
            try:
                piece = await self._threads.run(partial(self._file.pread, length, offset))
            except OSError as error:
                raise StorageError("the rendition file cannot be read") from error
            # The head with its Content-Length is sent already, so a shorter body must not pass for
            # a complete one.
            if len(piece) != length:
                raise StorageError("the rendition file was truncated while it was read")
            yield piece


Rendition = MemoryRendition | FileRendition
"""What a store returns; the caller closes it. A `body` of None is read by `chunks`."""
