"""Originals on a local or mounted file system, below one root."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeVar

from proxy.domain.errors import (
    SmartserveError,
    SourceMissing,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from proxy.runtime.daemon_thread import in_daemon_thread
from proxy.runtime.thread_pool import ThreadPool
from proxy.settings import StorageSettings
from proxy.storage.originals import OpenSource
from proxy.storage.originals.file_open import check_root, names_below, open_below
from proxy.storage.originals.file_write import add_below, readable, remove_below

_THREADS = 4
_FAILURES: Mapping[type[SmartserveError], str] = {
    SourceMissing: "missing",
    SourceUnavailable: "unavailable",
    SourceTimeout: "timeout",
    SourceTooLarge: "too_large",
}

_T = TypeVar("_T")


class LocalOriginals:
    """Originals in a directory.

    No path leads out of the root, and no symbolic link below it is followed; the root itself may
    be one. Only regular files are opened.
    """

    def __init__(self, root: Path, settings: StorageSettings) -> None:
        self._root = str(root.absolute())
        self._prefix = settings.strip_prefix or self._root
        self._max_bytes = settings.max_original_bytes
        self._threads = ThreadPool("originals", count=_THREADS, timeout_s=settings.open_timeout_s)
        self._opened = 0
        self._failures = dict.fromkeys(_FAILURES.values(), 0)

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[OpenSource]:
        """Open an original by its path in the database for the duration of the block.

        If the thread opens it after a time-out or a cancellation, it closes it at once.

        Raises:
            SourceMissing: there is no such regular file below the root.
            SourceTooLarge: the file is longer than an original may be.
            SourceUnavailable: the storage itself cannot be read.
            SourceTimeout: the storage did not answer in time.
        """
        # After a time-out or a cancellation the thread may still open the file: `release` closes
        # it.
        source = await self._run(partial(self._open, path), release=_close)
        self._opened += 1
        try:
            yield source
        finally:
            os.close(source.descriptor)

    async def check(self) -> None:
        """Return if the root can be listed; raises as `open` does."""
        await self._run(partial(check_root, self._root))

    async def add(self, path: str, source: int | Path) -> bool:
        """Store a file as a new original; return False if a file of that name exists.

        Missing directories are created. The file appears as a whole, and when this returns it is
        synchronised with the disk. A descriptor is read from its offset and not closed. There is no
        time limit. A cancellation stops the copy after the current piece, deletes it and is then
        raised; a second cancellation does not wait.

        Raises:
            SourceMissing: the path cannot be below the root, or leads through a file or a link.
            SourceTooLarge: the file is longer than an original may be.
            SourceUnavailable: the storage cannot be written.
            OSError: ``source`` cannot be opened.
        """
        abandoned = Event()
        # A thread of its own: writes may hang while reads do not, and must not block them.
        work = partial(self._add, path, source, abandoned.is_set)
        return await self._counted(in_daemon_thread(work, abandon=abandoned.set))

    async def remove(self, path: str) -> bool:
        """Delete an original durably; return False if there is none. Raises as `open` does."""
        return await self._run(partial(self._remove, path))

    def statistics(self) -> Mapping[str, float]:
        """Return the number of opened originals, and of failures as ``failures_<kind>``."""
        failures = {f"failures_{kind}": count for kind, count in self._failures.items()}
        return {"opened": self._opened, **failures}

    async def aclose(self) -> None:
        """Reject further calls; a call that hangs in a dead file system is not waited for."""
        await self._threads.aclose(wait_s=0)

    def _open(self, path: str) -> OpenSource:
        # Parsed in the thread, so that an invalid path is counted like a missing file.
        names = names_below(path, prefix=self._prefix)
        return open_below(self._root, names, max_bytes=self._max_bytes)

    def _add(self, path: str, source: int | Path, abandoned: Callable[[], bool]) -> bool:
        names = names_below(path, prefix=self._prefix)
        with readable(source) as descriptor:
            return add_below(
                self._root, names, descriptor, max_bytes=self._max_bytes, abandoned=abandoned
            )

    def _remove(self, path: str) -> bool:
        return remove_below(self._root, names_below(path, prefix=self._prefix))

    async def _run(
        self, work: Callable[[], _T], *, release: Callable[[_T], None] | None = None
    ) -> _T:
        try:
            return await self._counted(self._threads.run(work, release=release))
        except TimeoutError as error:
            self._failures["timeout"] += 1
            raise SourceTimeout(
                "the storage of originals did not answer in time; check that it is mounted"
            ) from error

    async def _counted(self, work: Awaitable[_T]) -> _T:
        try:
            return await work
        except SmartserveError as error:
            self._failures[_FAILURES[type(error)]] += 1
            raise


def _close(source: OpenSource) -> None:
    os.close(source.descriptor)
