"""Walk below a root by descriptors, one name at a time, through no symbolic link. Blocking.

A parent is opened relative to the one before it, so nothing that is renamed or replaced meanwhile
leads out of the root: what ``openat2`` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS gives, which
the standard library does not have.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from proxy.errors import SourceMissing, SourceTooLarge, SourceUnavailable
from proxy.sources import OpenSource
from proxy.sources.paths import MISSING

_DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ)

UNAVAILABLE = "the storage of originals cannot be read now"


@contextmanager
def root_opened(root: str) -> Iterator[int]:
    """The root's descriptor, for walking; the root itself may be a symbolic link.

    Raises:
        SourceUnavailable: there is no such directory, or it cannot be opened.
    """
    try:
        descriptor = os.open(root, os.O_PATH | _DIRECTORY)
    except OSError as error:
        raise SourceUnavailable(UNAVAILABLE) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def parent_opened(root: int, names: Sequence[str]) -> Iterator[int]:
    """The descriptor of the directory that ``names`` lead to; OSError where they do not."""
    descriptor = os.dup(root)
    try:
        for name in names:
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def translated() -> Iterator[None]:
    """What the system says of a path below the root, as the error tree has it."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise SourceMissing(MISSING) from error
        raise SourceUnavailable(UNAVAILABLE) from error


def open_below(root: str, names: Sequence[str], *, max_bytes: int) -> OpenSource:
    """Open a regular file for reading; the caller closes its descriptor.

    Raises:
        SourceMissing: there is no such regular file.
        SourceTooLarge: it is longer than ``max_bytes``.
        SourceUnavailable: the storage cannot be read.
    """
    *parents, name = names
    with root_opened(root) as top, translated(), parent_opened(top, parents) as parent:
        # Looked at first: opening a device may do something.
        _require_regular(os.stat(name, dir_fd=parent, follow_symlinks=False))
        descriptor = os.open(name, _FILE, dir_fd=parent)
        try:
            status = _require_regular(os.fstat(descriptor))
            require_within(status.st_size, max_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        return OpenSource(descriptor, status.st_size)


def check_root(root: str) -> None:
    """Return when the root can be listed; SourceUnavailable otherwise."""
    try:
        descriptor = os.open(root, os.O_RDONLY | _DIRECTORY)
        os.close(descriptor)
    except OSError as error:
        raise SourceUnavailable(UNAVAILABLE) from error


def require_within(byte_size: int, max_bytes: int) -> None:
    """Refuse what is longer than an original may be."""
    if byte_size > max_bytes:
        raise SourceTooLarge(f"the original is larger than {max_bytes} bytes")


def _require_regular(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise SourceMissing(MISSING)
    return status
