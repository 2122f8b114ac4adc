"""What a disk says of the rendition directory. Blocking; one file is made and removed."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.runtime.tempfile_owner import STALE_S, StaleTempfileDetector, new_name
from proxy.runtime.tempfiles import temporary_files
from proxy.storage.renditions.paths import SHARDS, RenditionPaths, cost

_BLOCK = bytes(4096)
_MODE = 0o640
_COUNT_S = 1.0
"""For how long files are counted: those of the shards left then are taken to be as many."""


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What was seen of the directory."""

    root: str
    fault: str
    """Why a file cannot be made, filled with a block, or renamed into place; empty: it can."""
    full: bool
    """Whether that is for want of room, of bytes or of inodes."""
    across: bool
    """Whether temporary files and renditions are on different file systems."""
    free_bytes: int
    free_inodes: int | None
    """None where the file system has as many as it wants."""
    used_bytes: int
    items: int
    guessed: bool
    """Whether only a part of the shards was counted, and the rest taken to be like it."""
    abandoned: int
    abandoned_bytes: int
    """Temporary files that nobody writes any more."""


def examine(root: str) -> DiskFacts:
    """Look at a rendition directory that is there.

    Raises:
        OSError: it is not, or cannot be looked at.
    """
    layout = RenditionPaths(root)
    device = _device(root)
    problem = _written(layout)
    used_bytes, items, part = _counted(layout)
    disk = os.statvfs(root)
    left = _abandoned(layout)
    code = None if problem is None else problem.errno
    return DiskFacts(
        root=root,
        fault="" if problem is None else problem.strerror or str(problem),
        full=code in (errno.ENOSPC, errno.EDQUOT),
        across=code == errno.EXDEV or any(_device(one) != device for one in _folders(layout)),
        free_bytes=disk.f_bavail * disk.f_frsize,
        free_inodes=disk.f_favail if disk.f_files else None,
        used_bytes=round(used_bytes / part),
        items=round(items / part),
        guessed=part < 1,
        abandoned=len(left),
        abandoned_bytes=sum(cost(status.st_size) for status in left),
    )


def _written(layout: RenditionPaths) -> OSError | None:
    """Make a file of a block where they are made, and rename it to where they go; then it goes."""
    made = layout.temporary if Path(layout.temporary).is_dir() else layout.root
    source, target = Path(made, new_name()), Path(layout.root, new_name())
    try:
        descriptor = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            os.write(descriptor, _BLOCK)
        finally:
            os.close(descriptor)
        source.rename(target)
    except OSError as error:
        return error
    finally:
        for path in (source, target):
            with suppress(OSError):
                path.unlink()
    return None


def _folders(layout: RenditionPaths) -> Iterator[str]:
    """The directories below the root that are there."""
    candidates = (layout.temporary, *(layout.shard(shard) for shard in range(SHARDS)))
    return (path for path in candidates if Path(path).is_dir())


def _device(path: str) -> int:
    return Path(path).stat().st_dev


def _counted(layout: RenditionPaths) -> tuple[int, int, float]:
    """Bytes and files in the shards that there was time for, and which part of all they are.

    Media are spread by a hash, so that one shard is like another.
    """
    total = items = 0
    until = time.monotonic() + _COUNT_S
    for done in range(SHARDS):
        if time.monotonic() > until and done:
            return total, items, done / SHARDS
        for size in _sizes(layout.shard(done)):
            total += cost(size)
            items += 1
    return total, items, 1.0


def _sizes(shard: str) -> Iterator[int]:
    """The lengths of the files of a shard; what goes meanwhile is left out."""
    with suppress(FileNotFoundError), os.scandir(shard) as media:
        for medium in media:
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(medium.path) as files:
                for file in files:
                    with suppress(FileNotFoundError):
                        yield file.stat(follow_symlinks=False).st_size


def _abandoned(layout: RenditionPaths) -> list[os.stat_result]:
    """Of processes that have ended, and of whom nobody knows if they are old."""
    found = temporary_files(layout.temporary)
    gone = set(StaleTempfileDetector().abandoned(found))
    before = time.time() - STALE_S
    return [
        status
        for path, status in found.items()
        if stat.S_ISREG(status.st_mode) and (path in gone or status.st_mtime < before)
    ]
