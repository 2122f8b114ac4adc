"""Files without a name until they are complete (O_TMPFILE, linkat). Blocking.

A process that is killed while it writes leaves nothing behind. On a file system without O_TMPFILE
(NFS, some FUSE and overlay file systems) the file has a hidden name until it is complete; such
names are recognised by `is_tempfile_name` and removed by age.
"""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

from proxy.domain.errors import SourceUnavailable
from proxy.runtime.thread_pool import in_daemon_thread

STALE_S = 3600.0
"""A named temporary file that has not changed for this long is abandoned."""

_PREFIX, _SUFFIX = ".smartserve-", ".part"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_UNNAMED = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
_NAMED = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNSUPPORTED = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS))
"""Errors of open(2) with O_TMPFILE on file systems and kernels without it."""


class TempFile:
    """A new file in a directory, open for reading and writing as `descriptor`.

    Use it as a context manager, from one thread at a time. Unless `link` or `replace` gave it a
    name, the file is gone when it is closed.
    """

    def __init__(self, directory: str, *, dir_fd: int | None = None, mode: int = 0o640) -> None:
        """Create the file below ``directory``, which is relative to ``dir_fd`` if that is given.

        Raises:
            OSError: the directory does not exist or cannot be written.
        """
        self._named: str | None = None
        self._closed = False
        self._directory = os.open(directory, _DIRECTORY, dir_fd=dir_fd)
        try:
            self.descriptor = self._open(mode)
        except BaseException:
            os.close(self._directory)
            raise

    def _open(self, mode: int) -> int:
        try:
            descriptor = os.open(".", _UNNAMED, mode, dir_fd=self._directory)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            # linkat of a descriptor goes through /proc, which may be missing in a chroot.
            if os.path.lexists(_link_of(descriptor)):
                return descriptor
            os.close(descriptor)
        # The fallback: a hidden name, which is removed by age if this process is killed.
        name = tempfile_name()
        descriptor = os.open(name, _NAMED, mode, dir_fd=self._directory)
        self._named = name
        return descriptor

    def link(self, path: str, *, dir_fd: int | None = None) -> None:
        """Give the file its name; it appears there complete and at once.

        Synchronise `descriptor` before and the directory after it if the name must survive a power
        failure.

        Raises:
            FileExistsError: something has that name already.
        """
        if self._named is None:
            link_unnamed(self.descriptor, path, dir_fd=dir_fd)
            return
        # A link and not a rename, which would replace an existing file.
        os.link(
            self._named,
            path,
            src_dir_fd=self._directory,
            dst_dir_fd=dir_fd,
            follow_symlinks=False,
        )
        self._unlink()

    def replace(self, path: str, *, dir_fd: int | None = None) -> None:
        """Give the file its name, in place of a file that may have it already."""
        if self._named is None:
            # The usual case: the name is free, and one system call is enough.
            with suppress(FileExistsError):
                self.link(path, dir_fd=dir_fd)
                return
            # linkat cannot replace: the file gets a temporary name, and that is renamed.
            name = tempfile_name()
            self.link(name, dir_fd=self._directory)
            self._named = name
        os.rename(self._named, path, src_dir_fd=self._directory, dst_dir_fd=dir_fd)
        self._named = None

    def close(self) -> None:
        """Close the file, and remove it if it has no name yet. Further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            # A file from O_TMPFILE disappears with its last descriptor; a named one is deleted.
            self._unlink()
        finally:
            os.close(self.descriptor)
            os.close(self._directory)

    def _unlink(self) -> None:
        if self._named is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._named, dir_fd=self._directory)
            self._named = None

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Call `close`."""
        self.close()


def link_unnamed(descriptor: int, path: str, *, dir_fd: int | None = None) -> None:
    """Give an open file from O_TMPFILE a name.

    Raises:
        FileExistsError: something has that name already.
    """
    # Through /proc, as AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH (open(2), O_TMPFILE). Only with a
    # directory descriptor does Python call linkat(AT_SYMLINK_FOLLOW); otherwise it calls link(2),
    # which would link the symbolic link in /proc. The path is absolute, so any descriptor will do.
    os.link(_link_of(descriptor), path, src_dir_fd=descriptor, dst_dir_fd=dir_fd)


def _link_of(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def tempfile_name() -> str:
    """Return a new hidden name that `is_tempfile_name` recognises."""
    return f"{_PREFIX}{secrets.token_hex(12)}{_SUFFIX}"


def is_tempfile_name(name: str) -> bool:
    """Return whether a file name is one of `tempfile_name`, also by an earlier release."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def is_stale(status: os.stat_result, now: float) -> bool:
    """Return whether a temporary file has not changed for `STALE_S` (``now`` as time.time())."""
    return now - status.st_mtime >= STALE_S


def files_in(directory: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Yield the files of a directory; a file or directory that is deleted meanwhile is skipped."""
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            # Not by `suppress`, which takes a tenth of the time of a survey.
            try:
                if entry.is_dir(follow_symlinks=False):
                    continue
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield entry, status


def delete_stale(directory: str, *, now: float) -> None:
    """Delete the stale files of a directory that holds temporary files only."""
    for file, status in files_in(directory):
        if is_stale(status, now):
            # Another process may have published or deleted it meanwhile.
            Path(file.path).unlink(missing_ok=True)


@asynccontextmanager
async def scratch_file(directory: Path) -> AsyncIterator[BinaryIO]:
    """Yield an empty, unbuffered file for reading and writing, and close it after the block.

    It disappears when it is closed, unless `link_unnamed` has given it a name.

    Raises:
        SourceUnavailable: no file can be created in the directory.
    """
    file = await in_daemon_thread(
        lambda: _open_scratch(directory), release=lambda late: late.close()
    )
    try:
        yield file
    finally:
        await in_daemon_thread(file.close)


def _open_scratch(directory: Path) -> BinaryIO:
    try:
        try:
            # Not with O_EXCL, which `tempfile` adds: such a file could not be linked later.
            descriptor = os.open(directory, _UNNAMED, 0o644)
        except OSError:
            return tempfile.TemporaryFile(dir=directory, buffering=0)
        return os.fdopen(descriptor, "w+b", buffering=0)
    except OSError as error:
        raise _unwritable() from error


def fill(file: BinaryIO, content: bytes) -> None:
    """Write ``content`` to an unbuffered file and seek to its start.

    Raises:
        SourceUnavailable: the file system is full or fails.
    """
    try:
        write_all(file.fileno(), content)
        file.seek(0)
    except OSError as error:
        raise _unwritable() from error


def write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes at the current position: one write(2) may write only a part of them."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _unwritable() -> SourceUnavailable:
    return SourceUnavailable("The storage of originals cannot be written.")
