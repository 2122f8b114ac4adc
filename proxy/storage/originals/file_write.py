"""Adds an original to an open directory (blocking); it appears complete, or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from proxy.domain.errors import SourceTooLarge
from proxy.runtime.safe_open import sync_directory
from proxy.runtime.tempfiles import TempFile, link_unnamed, write_all

_FILE_MODE = 0o644
_PIECE_BYTES = 1024 * 1024
# Another file system, no /proc, or a file whose last name was removed.
_NOT_LINKABLE = (errno.EXDEV, errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP)


class CopyCancelled(Exception):
    """The caller abandoned the copy; no file is left."""


def too_large(max_bytes: int) -> SourceTooLarge:
    """Return the error for an original that exceeds the limit."""
    return SourceTooLarge(f"the original is larger than {max_bytes} bytes")


def add_file(
    parent: int, name: str, source: int, *, max_bytes: int, abandoned: Callable[[], bool]
) -> bool:
    """Store an open file durably under a name of a directory; return False if the name exists.

    A nameless file of the same file system is linked, without a copy. Any other file is copied from
    its current offset. Another file is never replaced.

    Raises:
        SourceTooLarge: the original is longer than ``max_bytes``.
        CopyCancelled: ``abandoned`` returned True between two pieces.
        OSError: the storage cannot be written.
    """
    try:
        if not _link_unnamed(source, parent, name, max_bytes=max_bytes):
            with TempFile(".", dir_fd=parent, mode=_FILE_MODE) as file:
                _copy(source, file.descriptor, max_bytes=max_bytes, abandoned=abandoned)
                # Content, then name, then directory: after a power cut the name never refers to an
                # incomplete file.
                os.fsync(file.descriptor)
                file.link(name, dir_fd=parent)
    except FileExistsError:
        return False
    sync_directory(parent)
    return True


def _link_unnamed(source: int, parent: int, name: str, *, max_bytes: int) -> bool:
    """Give a file from O_TMPFILE its name; return False if the file must be copied instead."""
    status = os.fstat(source)
    # Linking a file that has a name would share its content with the owner of that name.
    if status.st_nlink:
        return False
    if status.st_size > max_bytes:
        raise too_large(max_bytes)
    os.fsync(source)
    try:
        link_unnamed(source, name, dir_fd=parent)
    except OSError as error:
        if error.errno in _NOT_LINKABLE:
            return False
        raise
    return True


def _copy(source: int, target: int, *, max_bytes: int, abandoned: Callable[[], bool]) -> None:
    copied = 0
    while piece := os.read(source, _PIECE_BYTES):
        # Checked between pieces: a read that hangs in a dead file system cannot be interrupted.
        if abandoned():
            raise CopyCancelled
        # Counted while copying: the source may still grow after its size was read.
        copied += len(piece)
        if copied > max_bytes:
            raise too_large(max_bytes)
        write_all(target, piece)
