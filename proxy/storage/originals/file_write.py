"""File new originals below the root, and take them away again. Blocking.

An original is on the disk, name and all, before it is told to be there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from proxy.runtime.safe_open import make_directories, parent_opened, sync_directory
from proxy.runtime.tempfile_owner import new_name
from proxy.storage.originals.file_open import require_within, root_opened, translated

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE = 0o644
_PIECE_BYTES = 1024 * 1024

PART_PREFIX, PART_SUFFIX = ".smartserve-", ".part"
"""Around the name of a file that grows; what is between them tells whose it is."""


class CopyCancelled(Exception):
    """Nobody waits for this copy any more; nothing of it is left."""


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
        make_directories(top, parents)
        with parent_opened(top, parents) as parent:
            added = _link_nameless(source, parent, name, max_bytes=max_bytes)
            if added is None:
                added = _copy_below(parent, name, source, max_bytes=max_bytes, abandoned=abandoned)
            if added:
                sync_directory(parent)
            return added


def _link_nameless(source: int, parent: int, name: str, *, max_bytes: int) -> bool | None:
    """Give a file from O_TMPFILE its name. None: it must be copied. False: the name exists."""
    status = os.fstat(source)
    if status.st_nlink:
        return None
    require_within(status.st_size, max_bytes)
    os.fsync(source)
    try:
        # open(2), O_TMPFILE: through /proc, because AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH.
        os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=parent, follow_symlinks=True)
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
    with _temporary(parent) as temporary:
        descriptor = os.open(temporary, _NEW, _FILE_MODE, dir_fd=parent)
        try:
            _copy(source, descriptor, max_bytes=max_bytes, abandoned=abandoned)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            return False
    return True


def remove_below(root: str, names: Sequence[str]) -> bool:
    """Take an original away, durably; False where there is none."""
    *parents, name = names
    with root_opened(root) as top, translated():
        try:
            with parent_opened(top, parents) as parent:
                os.unlink(name, dir_fd=parent)
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
        copied += len(piece)
        require_within(copied, max_bytes)
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]


@contextmanager
def readable(source: int | Path) -> Iterator[int]:
    """The descriptor of what is to be copied; one that is given stays open."""
    if isinstance(source, int):
        yield source
    else:
        with source.open("rb", buffering=0) as file:
            yield file.fileno()


@contextmanager
def _temporary(parent: int) -> Iterator[str]:
    """A name for the file while it grows; whatever has that name is gone in the end."""
    name = f"{PART_PREFIX}{new_name()}{PART_SUFFIX}"
    try:
        yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
