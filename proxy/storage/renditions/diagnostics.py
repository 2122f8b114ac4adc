"""The state of the disk below the rendition directory. All functions block."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.storage.renditions.paths import SHARDS, RenditionPaths, cost

_BLOCK = bytes(4096)
_COUNT_S = 1.0
"""Time limit for counting files; the remaining shards are assumed to be like those counted."""


@dataclass(frozen=True, slots=True)
class RenditionDisk:
    """Free and used space of a rendition directory."""

    free_bytes: int
    free_inodes: int | None
    """None if the file system has no limit."""
    used_bytes: int
    files: int


def write_probe(root: str) -> None:
    """Create a file where renditions are written, and rename it to where they are stored.

    Raises:
        OSError: ENOENT if there is no directory, EXDEV if it spans file systems.
    """
    paths = RenditionPaths(root)
    directory = paths.temporary if Path(paths.temporary).is_dir() else paths.root
    descriptor, name = tempfile.mkstemp(dir=directory)
    target = Path(paths.root, Path(name).name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_BLOCK)
        Path(name).rename(target)
    finally:
        for path in (Path(name), target):
            path.unlink(missing_ok=True)


def inspect_disk(root: str) -> RenditionDisk:
    """Return the space of the file system, and an estimate of what renditions use of it.

    Raises:
        OSError: there is no directory, or it cannot be read.
    """
    disk = os.statvfs(root)
    used_bytes, files, part = _count(RenditionPaths(root))
    return RenditionDisk(
        free_bytes=disk.f_bavail * disk.f_frsize,
        free_inodes=disk.f_favail if disk.f_files else None,
        used_bytes=round(used_bytes / part),
        files=round(files / part),
    )


def _count(paths: RenditionPaths) -> tuple[int, int, float]:
    """Return bytes and files in the shards counted in time, and their share of all shards.

    Images are distributed by a hash of their id, so the shards have about the same size.
    """
    used_bytes = files = 0
    deadline = time.monotonic() + _COUNT_S
    for shard in range(SHARDS):
        if shard and time.monotonic() > deadline:
            return used_bytes, files, shard / SHARDS
        for size in _sizes(paths.shard(shard)):
            used_bytes += cost(size)
            files += 1
    return used_bytes, files, 1.0


def _sizes(shard: str) -> Iterator[int]:
    """Yield the sizes of a shard's files, except of those deleted meanwhile."""
    with suppress(FileNotFoundError), os.scandir(shard) as media:
        for medium in media:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(medium.path) as files:
                for file in files:
                    with suppress(FileNotFoundError):
                        yield file.stat(follow_symlinks=False).st_size
