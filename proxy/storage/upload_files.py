"""Uploaded files: their names, and asynchronous access that never blocks the event loop.

Every path is opened by descriptor from the root without following symbolic links; see
`proxy.runtime.safe_open`.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

from proxy.domain.errors import (
    PendingNotFound,
    SmartserveError,
    UploadStorageError,
    UploadStorageFull,
)
from proxy.domain.upload import TEMP_PREFIX, UPLOAD_FIELDS, UploadField
from proxy.runtime.safe_open import (
    DIRECTORY,
    NotRegular,
    OpenFile,
    descended,
    make_directories,
    open_regular,
    parent_opened,
    sync_directory,
)
from proxy.runtime.tempfiles import TempFile, is_tempfile_name, write_all
from proxy.runtime.thread_pool import ThreadPool

FOLDERS = tuple(sorted({field.folder for field in UPLOAD_FIELDS.values()}))
LOST_FOUND = "lost+found"
"""Directory below the root, with the same folders, of files that no row names."""

# No leading dot: hidden names belong to unfinished files and to other programs.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,199}", re.ASCII)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_SECRET_DIGITS = 38
"""126 bits, so the name of an upload cannot be guessed. Digits, as in the requirements document."""
_SECRET_NAME = re.compile(rf"[0-9]+-[a-z]+-[0-9]+-[0-9]{{{_SECRET_DIGITS}}}\.[a-z0-9]+", re.ASCII)
_THREADS = 4
_PIECE_BYTES = 256 * 1024

_T = TypeVar("_T")


class TempName(NamedTuple):
    """The path of an uploaded file below the root. It contains no text of a client."""

    folder: str
    name: str

    @property
    def image_path(self) -> str:
        """The path as ``pending_images`` stores it."""
        return f"{TEMP_PREFIX}{self.folder}/{self.name}"

    @property
    def is_secret(self) -> bool:
        """Whether only who was given the name can know it, so that it authorises a request."""
        # Names of other programs, and of earlier versions, have fewer random digits or none.
        return _SECRET_NAME.fullmatch(self.name) is not None


def new_temp_name(field: UploadField, *, user_id: int, source_type: str, at: float) -> TempName:
    """Return ``{userId}-{type}-{timestamp}-{random}.{ext}``; ``at`` is in seconds since 1970."""
    number = f"{secrets.randbelow(10**_SECRET_DIGITS):0{_SECRET_DIGITS}}"
    suffix = "jpg" if source_type == "jpeg" else source_type
    return TempName(field.folder, f"{user_id}-{field.kind}-{int(at)}-{number}.{suffix}")


def temp_name(image_path: str) -> TempName | None:
    """Parse a path of ``pending_images``; return None if it is not in one of our folders."""
    folder, _, name = image_path.removeprefix(TEMP_PREFIX).partition("/")
    if not image_path.startswith(TEMP_PREFIX) or folder not in FOLDERS:
        return None
    return TempName(folder, name) if _NAME.fullmatch(name) else None


class TempfileListing(NamedTuple):
    """The files below the root."""

    files: dict[TempName, os.stat_result]
    unfinished: dict[TempName, os.stat_result]
    """Files that are being written on a file system without O_TMPFILE, or were left behind."""


class IncomingFile:
    """An upload that is being received; it is deleted unless it is published and retained.

    A call that its caller abandoned after a time-out may still run in a thread. The lock makes
    later calls wait for it, and after `end` every call fails.
    """

    def __init__(
        self, files: UploadFiles, name: str, parent: int, file: TempFile, opened: ExitStack
    ) -> None:
        """Take ownership of ``opened``, which closes the file and its directory ``parent``."""
        self._files = files
        self._name = name
        self._parent = parent
        self._file = file
        self._opened = opened
        self._lock = Lock()
        self._ended = False
        self._published = False
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

    async def publish(self) -> None:
        """Give the complete file its name, durably; raises as `write` does."""
        await self._flush()
        await self._files.run(self._publish)

    def end(self) -> None:
        """Close the file (blocking), and delete it unless it is published and retained."""
        with self._usable(), self._opened:
            self._ended = True
            if self._published and not self.retain:
                with suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=self._parent)

    async def _flush(self) -> None:
        # Handed over before the await: a cancelled flush must not be repeated.
        content, self._pending = bytes(self._pending), bytearray()
        await self._files.run(partial(self._write, content))

    def _write(self, content: bytes) -> None:
        with self._usable():
            write_all(self._file.descriptor, content)

    def _publish(self) -> None:
        with self._usable():
            # The content is synchronised before the name exists and the directory after that, so
            # after a power cut the name never refers to an incomplete file.
            os.fsync(self._file.descriptor)
            self._file.link(self._name, dir_fd=self._parent)
            self._published = True
            sync_directory(self._parent)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        with self._lock:
            # The descriptors of an ended file may belong to another file by now.
            if self._ended:
                raise OSError(errno.EBADF, "the upload has ended")
            yield


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An uploaded file that is open for reading, until the caller closes ``file``."""

    _files: UploadFiles
    file: OpenFile
    version: str
    """Differs if another file gets the same name."""

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from ``start`` up to ``stop`` in pieces.

        Raises:
            UploadStorageError: the file cannot be read to that end.
        """
        while start < stop:
            count = min(_PIECE_BYTES, stop - start)
            piece = await self._files.run(partial(self.file.pread, count, start))
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
    async def incoming(self, where: TempName) -> AsyncIterator[IncomingFile]:
        """Create a file for the duration of the block; `IncomingFile.publish` gives it its name.

        Raises:
            UploadStorageError: the file cannot be created.
        """
        incoming = await self.run(partial(self._create, where), release=IncomingFile.end)
        try:
            yield incoming
        finally:
            # Even if this await is cancelled, the thread ends the file.
            with suppress(SmartserveError):
                await self.run(incoming.end)

    async def open(self, where: TempName) -> OpenUpload:
        """Open an uploaded file, also one in `LOST_FOUND`; the caller closes it.

        Raises:
            PendingNotFound: there is no such regular file.
            UploadStorageError: it cannot be read.
        """
        return await self.run(partial(self._open, where), release=lambda late: late.file.close())

    async def remove(self, where: TempName) -> bool:
        """Delete an uploaded file; return False if there is none.

        Raises:
            UploadStorageError: it cannot be deleted.
        """
        return await self.run(partial(self._remove, where))

    async def set_aside(self, where: TempName) -> bool:
        """Move an uploaded file to `LOST_FOUND`; return False if there is none.

        Raises:
            UploadStorageError: it cannot be moved.
        """
        return await self.run(partial(self._set_aside, where))

    async def count_set_aside(self) -> int:
        """Return the number of files in `LOST_FOUND`; raises UploadStorageError."""
        return await self.run(self._count_set_aside)

    async def list_files(self) -> TempfileListing:
        """Return all regular files in the folders of uploads; raises UploadStorageError."""
        return await self.run(self._list)

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
        try:
            return await self._threads.run(work, release=release, shielded=True)
        except OSError as error:
            # A client can send the upload again later; an administrator has to free space.
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UploadStorageFull("The disk for uploads is full. Retry later.") from error
            raise UploadStorageError(
                "The uploads cannot be read or written. Retry later."
            ) from error

    def _create(self, where: TempName) -> IncomingFile:
        with descended(self._root) as top, ExitStack() as opened:
            make_directories(top, [where.folder])
            parent = opened.enter_context(parent_opened(top, [where.folder]))
            file = opened.enter_context(TempFile(".", dir_fd=parent))
            return IncomingFile(self, where.name, parent, file, opened.pop_all())

    def _open(self, where: TempName) -> OpenUpload:
        descriptor, status = self._in_either_folder(where, open_regular)
        version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        return OpenUpload(self, OpenFile(descriptor, status.st_size), version)

    def _remove(self, where: TempName) -> bool:
        try:
            self._in_either_folder(where, lambda parent, name: os.unlink(name, dir_fd=parent))
        except PendingNotFound:
            return False
        return True

    def _in_either_folder(self, where: TempName, work: Callable[[int, str], _T]) -> _T:
        """Call ``work`` with the directory of a file; raises PendingNotFound."""
        try:
            with self._folder(where.folder) as parent:
                return work(parent, where.name)
        except PendingNotFound:
            # The row of a file that was set aside may be back: a database was restored, or its
            # address was corrected.
            with self._folder(LOST_FOUND, where.folder) as parent:
                return work(parent, where.name)

    def _set_aside(self, where: TempName) -> bool:
        with descended(self._root) as top:
            make_directories(top, [LOST_FOUND, where.folder])
        try:
            with (
                self._folder(where.folder) as source,
                self._folder(LOST_FOUND, where.folder) as target,
            ):
                # Not a rename, which would replace a file that has the name already.
                try:
                    os.link(where.name, where.name, src_dir_fd=source, dst_dir_fd=target)
                except FileExistsError:
                    # The process was killed between the two calls, unless it is another file.
                    found = (os.stat(where.name, dir_fd=one) for one in (source, target))
                    if not os.path.samestat(*found):
                        raise
                os.unlink(where.name, dir_fd=source)
        except PendingNotFound:
            return False
        return True

    def _count_set_aside(self) -> int:
        return sum(1 for folder in FOLDERS for _ in self._regular_files(LOST_FOUND, folder))

    def _list(self) -> TempfileListing:
        listing = TempfileListing({}, {})
        # Only our folders are listed: the root may contain files of other programs.
        for folder in FOLDERS:
            for name, status in self._regular_files(folder):
                target = listing.unfinished if is_tempfile_name(name) else listing.files
                target[TempName(folder, name)] = status
        return listing

    def _regular_files(self, *path: str) -> Iterator[tuple[str, os.stat_result]]:
        # No upload has created the folder yet.
        with suppress(PendingNotFound), self._folder(*path) as parent:
            # A descriptor from O_PATH cannot be listed.
            descriptor = os.open(".", os.O_RDONLY | DIRECTORY, dir_fd=parent)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        # Files that disappear meanwhile are skipped.
                        with suppress(OSError):
                            if entry.is_file(follow_symlinks=False):
                                yield entry.name, entry.stat(follow_symlinks=False)
            finally:
                os.close(descriptor)

    @contextmanager
    def _folder(self, *path: str) -> Iterator[int]:
        """Yield the open folder; raises PendingNotFound if it, or a file in it, is absent."""
        try:
            with descended(self._root) as top, parent_opened(top, path) as parent:
                yield parent
        except OSError as error:
            if isinstance(error, NotRegular) or error.errno in _ABSENT:
                raise PendingNotFound("there is no such temporary file") from error
            raise
