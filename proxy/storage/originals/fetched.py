"""Originals of other servers, copied into sealed memory files (memfd_create(2)).

A worker gets the descriptor of such a file as it gets that of any original, so its sandbox needs no
right more. Once sealed, nobody can change the file any more, neither the worker nor this process.
The kernel charges the memory to this process's cgroup; `ByteBudget` limits it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from functools import partial
from threading import Lock

from proxy.domain.errors import SourceUnavailable
from proxy.runtime.byte_budget import ByteBudget
from proxy.runtime.safe_open import OpenFile
from proxy.runtime.tempfiles import write_all
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.originals.local_store import OpenSource, too_large

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_THREADS = 2
_NO_MEMORY = "there is no memory for a copy of the original"


class FetchedFile(OpenFile):
    """A fetched original that is read in pieces; it frees its memory budget when it is closed."""

    __slots__ = ("_also", "_loop", "_source")

    def __init__(self, source: OpenSource, *, also: Callable[[], object]) -> None:
        """Take ownership of the source; ``also`` is called on the event loop after it is closed."""
        self._source = source
        self._also = also
        self._loop = asyncio.get_running_loop()
        super().__init__(source.descriptor, source.byte_size)

    def _close_if_unused(self) -> None:
        if self._closed and self._reads == 0:
            self._source.close()
            # A thread that reads may close it, and after the loop has ended.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._also)


class _MemoryFile:
    """A file in memory that is being written."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("original", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._lock = Lock()
        self._closed = False

    def write(self, piece: bytes) -> None:
        # Without the lock, a thread that outlives a cancellation could write into the file that
        # has the number of the descriptor by then.
        with self._lock:
            if not self._closed:
                write_all(self.descriptor, piece)

    def seal(self) -> int:
        """Make the file unchangeable, and return its descriptor, which is the caller's now."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return self.descriptor

    def close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self.descriptor)


class SourceFetcher:
    """Copies the bodies of responses into memory files, within a budget of bytes."""

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        # No time limit: memory does not hang, and the callers limit the whole fetch.
        self._threads = ThreadPool("fetched-originals", count=_THREADS, timeout_s=None)

    async def copy(
        self,
        pieces: AsyncIterable[bytes],
        *,
        held_bytes: int,
        max_bytes: int,
        byte_size: int | None = None,
        version: str = "",
    ) -> OpenSource:
        """Copy a body; the caller closes the source, which gives ``held_bytes`` to the budget.

        The caller has taken them. If this raises, they are still the caller's. ``byte_size`` is the
        length of the body, if it is known. Errors of ``pieces`` are not translated.

        Raises:
            SourceTooLarge: the body is longer than ``max_bytes``.
            SourceUnavailable: the body has another length, or there is no memory.
        """
        try:
            file = _MemoryFile()
        except OSError as error:
            raise SourceUnavailable(_NO_MEMORY) from error
        try:
            copied = await self._fill(file, pieces, max_bytes)
            # A length in a header is only a promise.
            _check_length(copied, byte_size)
            descriptor = file.seal()
        except BaseException:
            file.close()
            raise
        return OpenSource(descriptor, copied, self._giving_back(held_bytes), version)

    async def _fill(self, file: _MemoryFile, pieces: AsyncIterable[bytes], max_bytes: int) -> int:
        copied = 0
        async for piece in pieces:
            copied += len(piece)
            if copied > max_bytes:
                raise too_large(max_bytes)
            try:
                await self._threads.run(partial(file.write, piece))
            except OSError as error:
                raise SourceUnavailable(_NO_MEMORY) from error
        return copied

    def _giving_back(self, count: int) -> Callable[[], object]:
        loop = asyncio.get_running_loop()

        def give_back() -> None:
            # A file may be closed by a thread that reads it, and after the loop has ended; the
            # budget is the loop's.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self.budget.give, count)

        return give_back

    async def aclose(self) -> None:
        """End the threads."""
        await self._threads.aclose(wait_s=0)


def _check_length(copied: int, expected: int | None) -> None:
    if expected not in (None, copied):
        raise SourceUnavailable("the storage of originals sent an incomplete file")
