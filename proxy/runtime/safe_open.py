"""Opens files below a root without following symbolic links. Blocking; raises OSError.

Each directory is opened relative to the descriptor of its parent, so a directory that is renamed or
replaced meanwhile cannot lead out of the root. openat2(2) with RESOLVE_BENEATH and
RESOLVE_NO_SYMLINKS does the same, but the standard library does not have it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock

from proxy.domain.formats import SNIFF_BYTES

DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not block. O_NOCTTY: a terminal must not become the controlling
# terminal.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY_MODE = 0o755


class NotRegular(OSError):
    """The name exists, but is not a regular file."""


@contextmanager
def descended(root: str) -> Iterator[int]:
    """Open the root as a starting point (O_PATH); the root itself may be a symbolic link."""
    descriptor = os.open(root, os.O_PATH | DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def parent_opened(root: int, names: Sequence[str]) -> Iterator[int]:
    """Open the directory ``names`` below ``root`` (O_PATH)."""
    descriptor = os.dup(root)
    try:
        for name in names:
            # O_NOFOLLOW: a symbolic link fails here, whatever it refers to.
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(parent: int, name: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; the caller closes the descriptor.

    Raises:
        NotRegular: it is not a regular file.
    """
    # Checked before open(2) as well: opening a device can have side effects.
    _require_regular(os.stat(name, dir_fd=parent, follow_symlinks=False))
    descriptor = os.open(name, _FILE, dir_fd=parent)
    try:
        return descriptor, _require_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def open_below(root: int, names: Sequence[str]) -> tuple[int, os.stat_result]:
    """As `open_regular`, for the file whose directories and name are ``names`` below ``root``."""
    *parents, name = names
    with parent_opened(root, parents) as parent:
        return open_regular(parent, name)


def make_directories(root: int, names: Sequence[str]) -> None:
    """Create the missing directories, and synchronise each parent with the disk."""
    for depth, name in enumerate(names):
        # A directory may exist already, or another process may create it at the same time.
        with parent_opened(root, names[:depth]) as parent, suppress(FileExistsError):
            os.mkdir(name, _DIRECTORY_MODE, dir_fd=parent)
            sync_directory(parent)


def sync_directory(parent: int) -> None:
    """Synchronise the names in a directory with the disk."""
    # fsync(2) rejects descriptors that were opened with O_PATH.
    descriptor = os.open(".", os.O_RDONLY | DIRECTORY, dir_fd=parent)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_regular(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular
    return status


class OpenFile:
    """A descriptor that may be closed while a thread reads from it.

    `close` during a read only marks the file; the read closes the descriptor when it ends. If
    `close` closed it, its number could be assigned to another file before the thread uses it.
    """

    __slots__ = ("_closed", "_lock", "_reads", "descriptor", "head", "length")

    def __init__(self, descriptor: int, length: int) -> None:
        """Take ownership of the descriptor."""
        self.length = length
        # Read now, so that `head` needs no thread and cannot fail later.
        self.head = os.pread(descriptor, SNIFF_BYTES, 0)
        self.descriptor = descriptor
        self._lock = Lock()
        self._reads = 0
        self._closed = False

    def pread(self, length: int, offset: int) -> bytes:
        """Read (blocking); raises OSError after `close`."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            # Counted under the lock: from here on `close` leaves the descriptor open.
            self._reads += 1
        try:
            return os.pread(self.descriptor, length, offset)
        finally:
            with self._lock:
                self._reads -= 1
                self._close_if_unused()

    def close(self) -> None:
        """Close the descriptor, after the running reads; further calls do nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and self._reads == 0:
            os.close(self.descriptor)
