"""Opens originals below a root (blocking), and translates the errors of the file system.

Directories are opened one by one, through no symbolic link; see `proxy.runtime.safe_open`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from proxy.domain.errors import SourceMissing, SourceTooLarge, SourceUnavailable
from proxy.runtime.safe_open import DIRECTORY, NotRegular, open_regular, parent_opened
from proxy.storage.originals import OpenSource

MISSING = "the original of this image is missing"
"""The message to clients; it does not contain the path, which is not public."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EILSEQ)
_UNAVAILABLE = "the storage of originals cannot be read; check that it is mounted"
_MAX_PATH_BYTES = 4096
_MAX_NAME_BYTES = 255


def names_below(path: str, *, prefix: str) -> tuple[str, ...]:
    """Return the names of the directories below the root and of the file.

    The path is relative, starts with a slash, or starts with ``prefix``, the root as the writer of
    the path knew it. All three are below the root. Nothing in a name is expanded.

    Raises:
        SourceMissing: no file can have this path: it is empty or too long, contains NUL, ``.`` or
            ``..``, or ends with a slash.
    """
    below = path.removeprefix(f"{prefix.rstrip('/')}/")
    names = tuple(name for name in below.split("/") if name)
    if not names or below.endswith("/") or not all(_valid(name) for name in names):
        raise SourceMissing(MISSING)
    if len(below) > _MAX_PATH_BYTES:
        raise SourceMissing(MISSING)
    return names


def _valid(name: str) -> bool:
    if name in (".", "..") or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) <= _MAX_NAME_BYTES
    # A lone surrogate cannot be encoded, so no file can have this name.
    except UnicodeEncodeError:
        return False


@contextmanager
def root_opened(root: str, *, flags: int = os.O_PATH) -> Iterator[int]:
    """Yield the root's descriptor; the root itself may be a symbolic link.

    Raises:
        SourceUnavailable: there is no such directory, or it cannot be opened.
    """
    try:
        descriptor = os.open(root, flags | DIRECTORY)
    except OSError as error:
        raise SourceUnavailable(_UNAVAILABLE) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the `SourceError` that describes an OSError below the root."""
    try:
        yield
    except OSError as error:
        if isinstance(error, NotRegular) or error.errno in _ABSENT:
            raise SourceMissing(MISSING) from error
        raise SourceUnavailable(_UNAVAILABLE) from error


def open_below(root: str, names: Sequence[str], *, max_bytes: int) -> OpenSource:
    """Open a regular file for reading; the caller closes its descriptor.

    Raises:
        SourceMissing: there is no such regular file.
        SourceTooLarge: it is longer than ``max_bytes``.
        SourceUnavailable: the storage cannot be read.
    """
    *parents, name = names
    # A missing root means that the storage is not mounted, which is not the same as a missing
    # original: so the root is opened outside of `translated`.
    with root_opened(root) as top, translated(), parent_opened(top, parents) as parent:
        descriptor, status = open_regular(parent, name)
        try:
            require_within(status.st_size, max_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        return OpenSource(descriptor, status.st_size)


def check_root(root: str) -> None:
    """Return if the root can be listed; raise SourceUnavailable otherwise."""
    with root_opened(root, flags=os.O_RDONLY):
        return


def require_within(byte_size: int, max_bytes: int) -> None:
    """Raise SourceTooLarge if the size exceeds the limit of originals."""
    if byte_size > max_bytes:
        raise SourceTooLarge(f"the original is larger than {max_bytes} bytes")
