"""`TempFiles`: temporary files, written and read without the loop waiting for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.domain.errors import SmartserveError, UploadStorageError
from proxy.storage.upload_files.files import (
    GrowingFile,
    ReadFile,
    TempfileListing,
    look,
    open_to_read,
    remove,
    translated,
)
from proxy.storage.upload_files.names import TempName

_THREADS = 4
_PIECE_BYTES = 256 * 1024

_T = TypeVar("_T")


class IncomingFile:
    """A file that comes in; nothing of it stays unless it is kept and settled."""

    def __init__(self, files: TempFiles, growing: GrowingFile) -> None:
        self._files = files
        self.growing = growing
        self._waiting = bytearray()
        self.byte_size = 0
        self.settled = False
        """Whether it stays; to be set when a row names it, or may name it."""

    async def write(self, data: bytes) -> None:
        """Take a piece; it is written with others.

        Raises:
            UploadStorageError: it cannot be written; the kind says whether for want of room.
        """
        self.byte_size += len(data)
        self._waiting += data
        if len(self._waiting) >= _PIECE_BYTES:
            await self._flush()

    async def keep(self, where: TempName) -> None:
        """Put it under its name, whole and on the disk. Raises as `write` does."""
        await self._flush()
        await self._files.run(partial(self.growing.keep, where.name))

    async def _flush(self) -> None:
        data, self._waiting = bytes(self._waiting), bytearray()
        await self._files.run(partial(self.growing.write, data))


class OpenTemp:
    """A temporary file that is read."""

    def __init__(self, files: TempFiles, opened: ReadFile) -> None:
        self._files = files
        self._opened = opened
        self.byte_size = opened.byte_size
        self.descriptor = opened.descriptor
        self.version = f"{opened.changed_ns:x}-{opened.byte_size:x}"
        """Another file under the same name has another one."""

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` up to ``stop``, in pieces.

        Raises:
            UploadStorageError: the file cannot be read to that end.
        """
        while start < stop:
            count = min(_PIECE_BYTES, stop - start)
            piece = await self._files.run(partial(self._opened.read, start, count))
            if not piece:
                raise UploadStorageError("the temporary file is shorter than it was")
            start += len(piece)
            yield piece

    def close(self) -> None:
        """Close it, in a thread, after the read under way."""
        self._files.later(self._opened.close)


class TempFiles:
    """Files in the folders of uploads, below one root.

    What a thread has begun is not waited for beyond ``timeout_s``; what cleans up behind it comes
    after it.
    """

    def __init__(self, root: Path, *, timeout_s: float) -> None:
        """The root has to be there by the time it is used."""
        self._root = str(root.absolute())
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="uploads")

    @asynccontextmanager
    async def incoming(self, folder: str) -> AsyncIterator[IncomingFile]:
        """A new file in a folder, for the length of a block.

        Raises:
            UploadStorageError: it cannot be made.
        """
        make = partial(GrowingFile, self._root, folder)
        growing = await self.run(make, release=partial(GrowingFile.end, settled=False))
        incoming = IncomingFile(self, growing)
        try:
            yield incoming
        finally:
            await self._end(incoming)

    async def _end(self, incoming: IncomingFile) -> None:
        """Close a file; whoever is cancelled meanwhile leaves the thread to it."""
        with suppress(SmartserveError):
            await self.run(partial(incoming.growing.end, settled=incoming.settled))

    async def open(self, where: TempName) -> OpenTemp:
        """Open a temporary file; the caller closes it.

        Raises:
            PendingNotFound: there is no such regular file.
            UploadStorageError: it cannot be read now.
        """
        opened = await self.run(partial(open_to_read, self._root, where), release=ReadFile.close)
        return OpenTemp(self, opened)

    async def remove(self, where: TempName) -> bool:
        """Take a temporary file away; False where there is none.

        Raises:
            UploadStorageError: it cannot be removed now.
        """
        return await self.run(partial(remove, self._root, where.folder, where.name))

    async def look(self) -> TempfileListing:
        """All that is there. Raises as `remove` does."""
        return await self.run(partial(look, self._root))

    async def aclose(self) -> None:
        """Take no more work; what hangs in a dead file system is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=False)

    def later(self, work: Callable[[], object]) -> None:
        """Do something in a thread that nobody waits for."""
        self._threads.submit(work)

    async def run(
        self, work: Callable[[], _T], *, release: Callable[[_T], None] | None = None
    ) -> _T:
        """One thread hop; what comes after a time-out or a cancellation is released.

        Raises:
            UploadStorageError: the disk says no, or nothing in time.
        """
        job = self._threads.submit(work)
        try:
            with translated():
                async with asyncio.timeout(self._timeout_s):
                    return await asyncio.shield(asyncio.wrap_future(job))
        except (asyncio.CancelledError, UploadStorageError):
            if release is not None:
                job.add_done_callback(partial(_release, release))
            raise


def _release(release: Callable[[_T], None], job: Future[_T]) -> None:
    if not job.cancelled() and job.exception() is None:
        release(job.result())
