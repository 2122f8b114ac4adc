"""Adds originals below a root and removes them. All functions block.

When `add_below` or `remove_below` returns, file and directory are synchronised with the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from proxy.runtime.safe_open import make_directories, parent_opened, sync_directory
from proxy.runtime.tempfiles import TempFile, link_unnamed, write_all
from proxy.storage.originals.file_open import require_within, root_opened, translated

_FILE_MODE = 0o644
_PIECE_BYTES = 1024 * 1024


class CopyCancelled(Exception):
    """The caller abandoned the copy; no file is left."""


def add_below(
    root: str,
    names: Sequence[str],
    source: int,
    *,
    max_bytes: int,
    abandoned: Callable[[], bool],
) -> bool:
    """Store an open file as a new original and create its directories; False if the name exists.

    A nameless file of the same file system is linked, without a copy. Any other file is copied from
    its current offset. The original appears complete and never replaces another file.

    Raises:
        SourceTooLarge: the original is longer than ``max_bytes``.
        SourceMissing: a name on the way is a file or a symbolic link.
        SourceUnavailable: the storage cannot be written.
        CopyCancelled: ``abandoned`` returned True between two pieces.
    """
    *parents, name = names
    with root_opened(root) as top, translated():
        # Each new directory is synchronised, so that a durable file is never below a lost
        # directory.
        make_directories(top, parents)
        with parent_opened(top, parents) as parent:
            added = _link_unnamed(source, parent, name, max_bytes=max_bytes)
            if added is None:
                added = _copy_below(parent, name, source, max_bytes=max_bytes, abandoned=abandoned)
            if added:
                sync_directory(parent)
            return added


def _link_unnamed(source: int, parent: int, name: str, *, max_bytes: int) -> bool | None:
    """Give a file from O_TMPFILE its name. None: it must be copied. False: the name exists."""
    status = os.fstat(source)
    if status.st_nlink:
        return None
    require_within(status.st_size, max_bytes)
    os.fsync(source)
    try:
        link_unnamed(source, name, dir_fd=parent)
    except FileExistsError:
        return False
    except OSError as error:
        # Another file system, no /proc, or a file whose last name was removed.
        if error.errno in (errno.EXDEV, errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP):
            return None
        raise
    return True


def _copy_below(
    parent: int, name: str, source: int, *, max_bytes: int, abandoned: Callable[[], bool]
) -> bool:
    with TempFile(".", dir_fd=parent, mode=_FILE_MODE) as file:
        _copy(source, file.descriptor, max_bytes=max_bytes, abandoned=abandoned)
        # Content, then name, then directory: after a power cut the name never refers to an
        # incomplete file.
        os.fsync(file.descriptor)
        try:
            file.link(name, dir_fd=parent)
        except FileExistsError:
            return False
    return True


def remove_below(root: str, names: Sequence[str]) -> bool:
    """Delete an original durably; return False if there is none."""
    *parents, name = names
    with root_opened(root) as top, translated():
        try:
            with parent_opened(top, parents) as parent:
                os.unlink(name, dir_fd=parent)
                # Without this, a removed original could reappear after a power cut.
                sync_directory(parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                return False
            raise
    return True


def _copy(source: int, target: int, *, max_bytes: int, abandoned: Callable[[], bool]) -> None:
    copied = 0
    while piece := os.read(source, _PIECE_BYTES):
        if abandoned():
            raise CopyCancelled
        # Counted while copying: the source may still grow after its size was read.
        copied += len(piece)
        require_within(copied, max_bytes)
        write_all(target, piece)


@contextmanager
def readable(source: int | Path) -> Iterator[int]:
    """Yield a descriptor of ``source``; one that was passed stays open."""
    if isinstance(source, int):
        yield source
    else:
        with source.open("rb", buffering=0) as file:
            yield file.fileno()
