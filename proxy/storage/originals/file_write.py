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
    """Copy from a descriptor to a new file, making directories; False where a file stands already.

    The file appears under its name whole, at once and never in place of another.

    Raises:
        SourceTooLarge: the original is longer than ``max_bytes``.
        SourceMissing: a name on the way is a file or a symbolic link.
        SourceUnavailable: the storage cannot be written.
        Abandoned: ``abandoned`` said so between two pieces.
    """
    *parents, name = names
    with root_opened(root) as top, translated():
        make_directories(top, parents)
        with parent_opened(top, parents) as parent, _temporary(parent) as temporary:
            descriptor = os.open(temporary, _NEW, _FILE_MODE, dir_fd=parent)
            try:
                _copy(source, descriptor, max_bytes=max_bytes, abandoned=abandoned)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                os.link(
                    temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False
                )
            except FileExistsError:
                return False
            sync_directory(parent)
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
