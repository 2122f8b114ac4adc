"""Asynchronous access to uploaded files; the disk never blocks the event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.domain.errors import SmartserveError, UploadStorageError
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.open_file import OpenFile
from proxy.storage.upload_files.files import (
    TempfileListing,
    UploadWriter,
    list_uploads,
    open_upload,
    remove,
    translated,
)
from proxy.storage.upload_files.names import TempName

_THREADS = 4
_PIECE_BYTES = 256 * 1024

_T = TypeVar("_T")


class IncomingFile:
    """An upload that is being received; it is deleted unless it is published and retained."""

    def __init__(self, files: UploadFiles, writer: UploadWriter) -> None:
        self._files = files
        self._writer = writer
        self._pending = bytearray()
        self.byte_size = 0
        self.retain = False
        """Whether to keep the published file; set it when a row names it or may name it."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes; they are written in pieces of at least 256 KiB.

        Raises:
            UploadStorageError: the disk is full, failed or did not answer in time.
        """
        self.byte_size += len(chunk)
        # Chunks from the network are small; one thread hop writes many of them.
        self._pending += chunk
        if len(self._pending) >= _PIECE_BYTES:
            await self._flush()

    async def publish(self, where: TempName) -> None:
        """Give the complete file its name, durably; raises as `write` does."""
        await self._flush()
        await self._files.run(partial(self._writer.publish, where.name))

    async def _flush(self) -> None:
        # Handed over before the await: a cancelled flush must not be repeated.
        content, self._pending = bytes(self._pending), bytearray()
        await self._files.run(partial(self._writer.write, content))


class OpenUpload:
    """An uploaded file that is open for reading."""

    def __init__(self, files: UploadFiles, file: OpenFile, changed_ns: int) -> None:
        self._files = files
        self._file = file
        self.byte_size = file.length
        self.version = f"{changed_ns:x}-{file.length:x}"
        """Differs if another file gets the same name."""
        self.descriptor = file.descriptor
        """Valid until `close`."""
        self.close = file.close

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from ``start`` up to ``stop`` in pieces.

        Raises:
            UploadStorageError: the file cannot be read to that end.
        """
        while start < stop:
            count = min(_PIECE_BYTES, stop - start)
            piece = await self._files.run(partial(self._file.pread, count, start))
            # pread returns nothing behind the end of the file.
            if not piece:
                raise UploadStorageError("The uploaded file was truncated while it was read.")
            start += len(piece)
            yield piece


class UploadFiles:
    """Files in the folders of uploads below one root."""

    def __init__(self, root: Path, *, timeout_s: float) -> None:
        """The root may be created later; each call waits at most ``timeout_s`` for the disk."""
        self._root = str(root.absolute())
        self._threads = ThreadPool("uploads", count=_THREADS, timeout_s=timeout_s)

    @asynccontextmanager
    async def incoming(self, folder: str) -> AsyncIterator[IncomingFile]:
        """Create a file in a folder for the duration of the block.

        Raises:
            UploadStorageError: the file cannot be created.
        """
        create = partial(UploadWriter, self._root, folder)
        writer = await self.run(create, release=partial(UploadWriter.end, retain=False))
        incoming = IncomingFile(self, writer)
        try:
            yield incoming
        finally:
            # Even if this await is cancelled, the thread ends the file.
            with suppress(SmartserveError):
                await self.run(partial(writer.end, retain=incoming.retain))

    async def open(self, where: TempName) -> OpenUpload:
        """Open an uploaded file; the caller closes it.

        Raises:
            PendingNotFound: there is no such regular file.
            UploadStorageError: it cannot be read.
        """
        work = partial(open_upload, self._root, where)
        file, changed_ns = await self.run(work, release=lambda late: late[0].close())
        return OpenUpload(self, file, changed_ns)

    async def remove(self, where: TempName) -> bool:
        """Delete an uploaded file; return False if there is none.

        Raises:
            UploadStorageError: it cannot be deleted.
        """
        return await self.run(partial(remove, self._root, where))

    async def list_files(self) -> TempfileListing:
        """Return all files; raises UploadStorageError."""
        return await self.run(partial(list_uploads, self._root))

    async def aclose(self) -> None:
        """Reject further calls; a call that hangs in a dead file system is not waited for."""
        await self._threads.aclose(wait_s=0)

    async def run(
        self, work: Callable[[], _T], *, release: Callable[[_T], object] | None = None
    ) -> _T:
        """Run ``work`` in a thread, to its end even after a time-out or a cancellation.

        ``release`` receives a result that nobody waits for any more.

        Raises:
            UploadStorageError: the disk failed or did not answer in time.
        """
        with translated():
            return await self._threads.finish(work, release=release)
