"""Temporary files on the disk. Blocking, and safe to use from several threads.

What was begun in a thread may go on after its caller has left; so each file has a lock, and what
comes later waits for what came before.
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
from proxy.storage.upload_files.names import FOLDERS, TempName

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class TempfileListing(NamedTuple):
    """What is below the root."""

    files: Mapping[TempName, os.stat_result]
    parts: Mapping[str, os.stat_result]
    """Files that grow, or were left behind as they grew, by ``folder/name``."""


@contextmanager
def translated() -> Iterator[None]:
    """What the system says of temporary files, as the error tree has it."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UploadStorageFull("there is no room for another upload now") from error
        raise UploadStorageError("uploads cannot be stored or read now") from error


class GrowingFile:
    """A file that is written piece by piece; unless it is settled, it is gone in the end."""

    def __init__(self, root: str, folder: str) -> None:
        """Create it, and its folder if that is missing; the root must exist.

        Raises:
            OSError: it cannot be created.
        """
        self._lock = Lock()
        self._kept: str | None = None
        self._ended = False
        with descended(root) as top:
            make_directories(top, [folder])
            self._parent = os.open(folder, os.O_PATH | os.O_NOFOLLOW | DIRECTORY, dir_fd=top)
        try:
            self._file = TempFile(".", dir_fd=self._parent)
        except BaseException:
            os.close(self._parent)
            raise

    def write(self, data: bytes) -> None:
        """Append all bytes."""
        with self._lock:
            self._check_open()
            write_all(self._file.descriptor, data)

    def keep(self, name: str) -> None:
        """Give the complete file its name, durably; it never replaces another file."""
        with self._lock:
            self._check_open()
            os.fsync(self._file.descriptor)
            self._file.link(name, dir_fd=self._parent)
            self._kept = name
            sync_directory(self._parent)

    def _check_open(self) -> None:
        # Work that a thread runs after the end would find another file under these descriptors.
        if self._ended:
            raise OSError(errno.EBADF, "the upload has ended")

    def end(self, *, settled: bool) -> None:
        """Close it, and remove it unless it is settled."""
        with self._lock:
            self._check_open()
            self._ended = True
            try:
                self._file.close()
                if self._kept is not None and not settled:
                    with suppress(FileNotFoundError):
                        os.unlink(self._kept, dir_fd=self._parent)
            finally:
                os.close(self._parent)


def open_to_read(root: str, where: TempName) -> ReadFile:
    """A temporary file; the caller closes it.

    Raises:
        PendingNotFound: there is no such regular file.
        OSError: it cannot be opened.
    """
    try:
        return ReadFile(root, where)
    except OSError as error:
        if isinstance(error, NotRegular) or error.errno in _ABSENT:
            raise PendingNotFound("there is no such temporary file") from error
        raise


class ReadFile:
    """A temporary file that is read; it may be removed meanwhile."""

    def __init__(self, root: str, where: TempName) -> None:
        """Open it; raises OSError where there is no such regular file."""
        self._lock = Lock()
        self._closed = False
        with descended(root) as top, parent_opened(top, [where.folder]) as parent:
            self.descriptor, status = open_regular(parent, where.name)
        self.byte_size = status.st_size
        self.changed_ns = status.st_mtime_ns

    def read(self, at: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``at`` on."""
        with self._lock:
            return b"" if self._closed else os.pread(self.descriptor, count, at)

    def close(self) -> None:
        """Close it, after the read under way."""
        with self._lock:
            self._closed = True
            os.close(self.descriptor)


def remove(root: str, folder: str, name: str) -> bool:
    """Take a file away; False where there is none."""
    try:
        with descended(root) as top, parent_opened(top, [folder]) as parent:
            os.unlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno in _ABSENT or error.errno == errno.EISDIR:
            return False
        raise
    return True


def look(root: str) -> TempfileListing:
    """All regular files in our folders."""
    files: dict[TempName, os.stat_result] = {}
    parts: dict[str, os.stat_result] = {}
    for folder in FOLDERS:
        for name, status in _listed(root, folder):
            if is_tempfile_name(name):
                parts[f"{folder}/{name}"] = status
            else:
                files[TempName(folder, name)] = status
    return TempfileListing(files, parts)


def _listed(root: str, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """The files of a folder; none where it is not there."""
    with suppress(FileNotFoundError), descended(root) as top:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | DIRECTORY, dir_fd=top)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with suppress(OSError):
                        if entry.is_file(follow_symlinks=False):
                            yield entry.name, entry.stat(follow_symlinks=False)
        finally:
            os.close(descriptor)
