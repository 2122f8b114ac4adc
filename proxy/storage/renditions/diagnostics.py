"""Measures the disk below the rendition directory. All functions block."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from proxy.runtime.tempfiles import TempFile, tempfile_name
from proxy.storage.renditions.disk_state import SHARDS, RenditionPaths
from proxy.storage.renditions.eviction import survey

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
    # A rendition directory that was never written to has no folder for temporary files.
    directory = paths.temporary if Path(paths.temporary).is_dir() else paths.root
    target = Path(paths.root, tempfile_name())
    try:
        with TempFile(directory) as file:
            os.write(file.descriptor, _BLOCK)
            file.replace(str(target))
    finally:
        target.unlink(missing_ok=True)


def local_lock_mount(root: str, mounts: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system, if its mount keeps locks from other machines; else "".

    Raises:
        OSError: there is no directory, or the table of mounts cannot be read.
    """
    device = Path(root).stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines():
        # proc_pid_mountinfo(5): id, parent, device, ... - type, source, options.
        place, _, system = line.partition(" - ")
        if place.split()[2] == number:
            kind, _, options = system.split(" ", 2)
            # nfs(5): "none" or nothing is the default.
            local = re.search(r"\b(?:nolock|local_lock=(?:all|flock|posix))\b", options)
            return kind if kind.startswith("nfs") and local else ""
    return ""


def inspect_disk(root: str) -> RenditionDisk:
    """Return the space of the file system, and an estimate of what renditions use of it.

    Raises:
        OSError: there is no directory, or it cannot be read.
    """
    disk, paths = os.statvfs(root), RenditionPaths(root)
    used_bytes = files = counted = 0
    deadline = time.monotonic() + _COUNT_S
    # At least one shard is counted, so the share below is never 0.
    while counted < SHARDS and (counted == 0 or time.monotonic() < deadline):
        found = survey(paths.shard(counted))
        used_bytes += found.bytes
        files += found.items
        counted += 1
    # Images are distributed by a hash of their id, so the shards have about the same size.
    share = counted / SHARDS
    return RenditionDisk(
        free_bytes=disk.f_bavail * disk.f_frsize,
        # A file system that creates inodes on demand reports a total of 0.
        free_inodes=disk.f_favail if disk.f_files else None,
        used_bytes=round(used_bytes / share),
        files=round(files / share),
    )
