"""Renditions too long to be held: open files, read in pieces by threads."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from functools import partial
from threading import Lock

from proxy.domain.errors import StorageError
from proxy.domain.formats import SNIFF_BYTES
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.memory_store import PIECE_BYTES


class OpenFile:
    """A descriptor that may be closed while a thread reads from it: then the read closes it.

    So its number is never given to another file under the hands of that thread.
    """

    __slots__ = ("_closed", "_descriptor", "_lock", "_reads", "head", "length")

    def __init__(self, descriptor: int, length: int) -> None:
        self.length = length
        self.head = os.pread(descriptor, SNIFF_BYTES, 0)
        self._descriptor = descriptor
        self._lock = Lock()
        self._reads = 0
        self._closed = False

    def pread(self, length: int, offset: int) -> bytes:
        """Read; blocking. An OSError after `close`."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._reads += 1
        try:
            return os.pread(self._descriptor, length, offset)
        finally:
            with self._lock:
                self._reads -= 1
                self._let_go()

    def close(self) -> None:
        """Let go of the descriptor; further calls do nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._let_go()

    def _let_go(self) -> None:
        if self._closed and self._reads == 0:
            os.close(self._descriptor)


class FileRendition:
    """A rendition in an open file; it stays readable when the file is evicted or purged."""

    tier = "disk"
    body = None

    def __init__(self, file: OpenFile, threads: ThreadPool) -> None:
        self._file = file
        self._threads = threads

    @property
    def length(self) -> int:
        """Bytes of the whole rendition."""
        return self._file.length

    @property
    def head(self) -> bytes:
        """Its first bytes, enough to tell its format by."""
        return self._file.head

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``stop``, in pieces of at most 256 KiB.

        Raises:
            StorageError: the file cannot be read on; what went out before is not the whole.
        """
        for offset in range(start, stop, PIECE_BYTES):
            yield await self._read(offset, min(PIECE_BYTES, stop - offset))

    def close(self) -> None:
        """Let go of the file; further calls do nothing."""
        self._file.close()

    async def _read(self, offset: int, length: int) -> bytes:
        try:
            piece = await self._threads.run(partial(self._file.pread, length, offset))
        except OSError as error:
            raise StorageError("the rendition's file cannot be read") from error
        if len(piece) != length:
            raise StorageError("the rendition's file was cut while it was read")
        return piece
