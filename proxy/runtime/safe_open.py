"""Descend from a root by descriptors, one name at a time, through no symbolic link. Blocking.

A parent is opened relative to the one before it, so nothing that is renamed or replaced meanwhile
leads out of the root: what ``openat2`` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS gives, which
the standard library does not have. All raises OSError, as the system has it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY_MODE = 0o755


class NotRegular(OSError):
    """What stands there is no regular file."""


@contextmanager
def descended(root: str) -> Iterator[int]:
    """The root's descriptor, for walking; the root itself may be a symbolic link."""
    descriptor = os.open(root, os.O_PATH | DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def parent_opened(root: int, names: Sequence[str]) -> Iterator[int]:
    """The descriptor of the directory that ``names`` lead to."""
    descriptor = os.dup(root)
    try:
        for name in names:
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(parent: int, name: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; the caller closes its descriptor.

    Raises:
        NotRegular: it is something else.
    """
    # Looked at first: opening a device may do something.
    _require_regular(os.stat(name, dir_fd=parent, follow_symlinks=False))
    descriptor = os.open(name, _FILE, dir_fd=parent)
    try:
        return descriptor, _require_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def make_directories(root: int, names: Sequence[str]) -> None:
    """Make what is missing on the way, durably."""
    for depth, name in enumerate(names):
        with parent_opened(root, names[:depth]) as parent, suppress(FileExistsError):
            os.mkdir(name, _DIRECTORY_MODE, dir_fd=parent)
            sync_directory(parent)


def sync_directory(parent: int) -> None:
    """Make the names in a directory durable; one opened by O_PATH cannot be synchronised."""
    descriptor = os.open(".", os.O_RDONLY | DIRECTORY, dir_fd=parent)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_regular(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular
    return status
