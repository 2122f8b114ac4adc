"""Open originals below a root; what the system says of that is told as the error tree has it.

Blocking. Walking is by descriptors, through no symbolic link: see `proxy.runtime.safe_open`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from proxy.domain.errors import SourceMissing, SourceTooLarge, SourceUnavailable
from proxy.runtime.safe_open import DIRECTORY, NotRegular, open_regular, parent_opened
from proxy.storage.originals import OpenSource
from proxy.storage.originals.paths import MISSING

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ)

UNAVAILABLE = "the storage of originals cannot be read now"


@contextmanager
def root_opened(root: str) -> Iterator[int]:
    """The root's descriptor, for walking; the root itself may be a symbolic link.

    Raises:
        SourceUnavailable: there is no such directory, or it cannot be opened.
    """
    try:
        descriptor = os.open(root, os.O_PATH | DIRECTORY)
    except OSError as error:
        raise SourceUnavailable(UNAVAILABLE) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def translated() -> Iterator[None]:
    """What the system says of a path below the root, as the error tree has it."""
    try:
        yield
    except OSError as error:
        if isinstance(error, NotRegular) or error.errno in _ABSENT:
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
        descriptor, status = open_regular(parent, name)
        try:
            require_within(status.st_size, max_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        return OpenSource(descriptor, status.st_size)


def check_root(root: str) -> None:
    """Return when the root can be listed; SourceUnavailable otherwise."""
    try:
        descriptor = os.open(root, os.O_RDONLY | DIRECTORY)
        os.close(descriptor)
    except OSError as error:
        raise SourceUnavailable(UNAVAILABLE) from error


def require_within(byte_size: int, max_bytes: int) -> None:
    """Refuse what is longer than an original may be."""
    if byte_size > max_bytes:
        raise SourceTooLarge(f"the original is larger than {max_bytes} bytes")
