"""Hot files: renditions on disk that are read again and again, kept open and read without a thread.

`RWF_NOWAIT` reads from the page cache or fails (preadv2(2)), so the event loop never waits for the
disk. A thread costs a hit more time than everything else together.
"""

from __future__ import annotations

import os
import stat
import time
from asyncio import Future
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self

import xxhash
from cachetools import LRUCache

from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.rendition_file import TRAILER_BYTES, trailer_of

MAX_BYTES = 256 * 1024
"""The longest body. It is copied and verified on the event loop, in about 50 us."""
_MAX_FILES = 64
_RECENT = 256
"""A file is hot if it is read twice within this number of files."""
_OPEN_S = 5.0
"""After this time a file is read by its path again, by a thread. That records its use for eviction,
and notices a directory that was moved away."""
# O_NOATIME: a read must not wait until an access time is written.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME


class HotFile(NamedTuple):
    """An open rendition file; the owner closes it."""

    descriptor: int
    digest: bytes
    length: int
    """Bytes of the body."""
    changed_ns: int
    """Changes with each write, link, deletion and renaming of the file (st_ctime)."""

    @classmethod
    def open(cls, path: str, digest: str) -> Self | None:
        """Open a file; None if it is absent or cannot be hot. It blocks, and verifies nothing."""
        try:
            descriptor = os.open(path, _FLAGS)
        # Also a file of another user, for which O_NOATIME is not permitted.
        except OSError:
            return None
        status = os.fstat(descriptor)
        length = status.st_size - TRAILER_BYTES
        if stat.S_ISREG(status.st_mode) and 0 < length <= MAX_BYTES:
            return cls(descriptor, bytes.fromhex(digest), length, status.st_ctime_ns)
        os.close(descriptor)
        return None

    def read(self, buffer: memoryview) -> bytes | None:
        """Return the verified body without waiting for the disk; None if that is not possible.

        None: it is not in the page cache, or the file was changed, replaced or deleted since.

        Raises:
            OSError: the file system does not support such reads.
        """
        size = self.length + TRAILER_BYTES
        try:
            read = os.preadv(self.descriptor, [buffer[:size]], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        # After the read, so that nothing is returned that was deleted before it.
        status = os.fstat(self.descriptor)
        # Two changes may have the same time stamp, but a file without a name is deleted for good.
        if (read, status.st_size, status.st_nlink, status.st_ctime_ns) != (
            *(size, size, 1),
            self.changed_ns,
        ):
            return None
        body = bytes(buffer[: self.length])
        expected = trailer_of(self.length, xxhash.xxh3_128_digest(body), self.digest)
        return body if buffer[self.length : size] == expected else None

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


class _OpenFile(NamedTuple):
    file: HotFile
    until: float


class HotFiles:
    """A bounded number of hot files; use it on the event loop."""

    def __init__(
        self, threads: ThreadPool, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``threads`` open and close the files."""
        self._threads = threads
        self._monotonic = monotonic
        self._files: dict[str, _OpenFile] = {}
        self._recent: LRUCache[str, None] = LRUCache(_RECENT)
        self._opening: set[str] = set()
        self._buffer = memoryview(bytearray(MAX_BYTES + TRAILER_BYTES))
        # Until the file system refuses such a read, as tmpfs, overlayfs and NFS do, or at the end.
        self._usable = True

    def read(self, digest: str) -> bytes | None:
        """Return the verified body of a hot file, or None if a thread must read the file."""
        found = self._files.get(digest)
        if found is None:
            return None
        body = None
        if self._monotonic() < found.until:
            try:
                body = found.file.read(self._buffer)
            except OSError:
                self.close()
                return None
        if body is None:
            self._close(self._files.pop(digest).file)
        return body

    def record_read(self, digest: str, path: str, length: int) -> None:
        """Note that a thread has read a file; a hot one is opened in the background."""
        if not self._usable or length > MAX_BYTES or digest in self._opening:
            return
        if digest not in self._recent:
            self._recent[digest] = None
            return
        with suppress(OSError):
            work = partial(HotFile.open, path, digest)
            opening = self._threads.run(work, release=lambda file: file and file.close())
            self._opening.add(digest)
            opening.add_done_callback(partial(self._keep, digest))

    def close(self) -> None:
        """Close all files, and open none from now on."""
        self._usable = False
        self.forget()

    def forget(self) -> None:
        """Close all files; those that are read again later are opened again."""
        self._recent.clear()
        for found in self._files.values():
            self._close(found.file)
        self._files.clear()

    def _keep(self, digest: str, opening: Future[HotFile | None]) -> None:
        self._opening.discard(digest)
        if opening.cancelled() or opening.exception() is not None:
            return
        file = opening.result()
        if file is None:
            return
        if not self._usable or digest in self._files:
            self._close(file)
            return
        if len(self._files) >= _MAX_FILES:
            # Dicts keep the order of insertion, so the first file expires first.
            self._close(self._files.pop(next(iter(self._files))).file)
        self._files[digest] = _OpenFile(file, self._monotonic() + _OPEN_S)

    def _close(self, file: HotFile) -> None:
        try:
            # In a thread: closing the last descriptor of a deleted file frees its blocks.
            self._threads.run(file.close, shielded=True)
        except OSError:
            # The threads have ended.
            file.close()
