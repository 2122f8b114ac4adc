"""Writes, opens, lists and deletes uploaded files. All functions block and are thread-safe.

Every path is opened by descriptor from the root without following symbolic links; see
`proxy.runtime.safe_open`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock
from typing import NamedTuple

from proxy.domain.errors import PendingNotFound, UploadStorageError, UploadStorageFull
from proxy.runtime.safe_open import (
    DIRECTORY,
    NotRegular,
    descended,
    make_directories,
    open_regular,
    parent_opened,
    sync_directory,
)
from proxy.runtime.tempfiles import TempFile, is_tempfile_name, write_all
from proxy.storage.renditions.open_file import OpenFile
from proxy.storage.upload_files.names import FOLDERS, TempName

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class TempfileListing(NamedTuple):
    """The files below the root."""

    files: Mapping[TempName, os.stat_result]
    unfinished: Mapping[TempName, os.stat_result]
    """Files that are being written on a file system without O_TMPFILE, or were left behind."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise the `UploadStorageError` that describes an OSError of the block."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UploadStorageFull("The disk for uploads is full. Retry later.") from error
        raise UploadStorageError("The uploads cannot be read or written. Retry later.") from error


class UploadWriter:
    """A file without a name until `publish`; it is deleted at the end unless it is retained.

    A call that its caller abandoned after a time-out may still run in a thread. The lock makes
    later calls wait for it, and after `end` every call raises OSError.
    """

    def __init__(self, root: str, folder: str) -> None:
        """Create the file, and its folder if that is missing.

        Raises:
            OSError: the root does not exist, or the file cannot be created.
        """
        self._lock = Lock()
        self._published: str | None = None
        self._ended = False
        with descended(root) as top:
            make_directories(top, [folder])
            self._parent = os.open(folder, os.O_PATH | os.O_NOFOLLOW | DIRECTORY, dir_fd=top)
        try:
            self._file = TempFile(".", dir_fd=self._parent)
        except BaseException:
            os.close(self._parent)
            raise

    def write(self, content: bytes) -> None:
        """Append all of ``content``."""
        with self._open():
            write_all(self._file.descriptor, content)

    def publish(self, name: str) -> None:
        """Give the file its name, durably; raises FileExistsError if the name is in use."""
        with self._open():
            # The content is synchronised before the name exists and the directory after that, so
            # after a power cut the name never refers to an incomplete file.
            os.fsync(self._file.descriptor)
            self._file.link(name, dir_fd=self._parent)
            self._published = name
            sync_directory(self._parent)

    def end(self, *, retain: bool) -> None:
        """Close the file, and delete it unless it is published and ``retain`` is true."""
        with self._open():
            self._ended = True
            try:
                self._file.close()
                if not retain and self._published is not None:
                    with suppress(FileNotFoundError):
                        os.unlink(self._published, dir_fd=self._parent)
            finally:
                os.close(self._parent)

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            # The descriptors of an ended file may belong to another file by now.
            if self._ended:
                raise OSError(errno.EBADF, "the upload has ended")
            yield


def open_upload(root: str, where: TempName) -> tuple[OpenFile, int]:
    """Open an uploaded file; return it and its modification time in nanoseconds.

    Raises:
        PendingNotFound: there is no such regular file.
        OSError: it cannot be opened.
    """
    try:
        with descended(root) as top, parent_opened(top, [where.folder]) as parent:
            descriptor, status = open_regular(parent, where.name)
            return OpenFile(descriptor, status.st_size), status.st_mtime_ns
    except OSError as error:
        if isinstance(error, NotRegular) or error.errno in _ABSENT:
            raise PendingNotFound("there is no such temporary file") from error
        raise


def remove(root: str, where: TempName) -> bool:
    """Delete a file; return False if there is none."""
    try:
        with descended(root) as top, parent_opened(top, [where.folder]) as parent:
            os.unlink(where.name, dir_fd=parent)
    except OSError as error:
        if error.errno in _ABSENT or error.errno == errno.EISDIR:
            return False
        raise
    return True


def list_uploads(root: str) -> TempfileListing:
    """Return all regular files in the folders of uploads."""
    # Only our folders are listed: the root may contain files of other programs.
    files: dict[TempName, os.stat_result] = {}
    unfinished: dict[TempName, os.stat_result] = {}
    for folder in FOLDERS:
        for name, status in _regular_files(root, folder):
            target = unfinished if is_tempfile_name(name) else files
            target[TempName(folder, name)] = status
    return TempfileListing(files, unfinished)


def _regular_files(root: str, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with suppress(FileNotFoundError), descended(root) as top:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | DIRECTORY, dir_fd=top)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    # Files that disappear meanwhile are skipped.
                    with suppress(OSError):
                        if entry.is_file(follow_symlinks=False):
                            yield entry.name, entry.stat(follow_symlinks=False)
        finally:
            os.close(descriptor)
