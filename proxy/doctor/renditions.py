"""The disk cache: written, with room for what it is allowed to hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from proxy.doctor import CheckBlocked, Diagnosis, failed, warned, well
from proxy.doctor.figures import as_bytes, counted
from proxy.settings import Settings
from proxy.storage.renditions.diagnostics import DiskFacts, examine

_LEAST_BYTES = 16 * 1024 * 1024
_LEAST_INODES = 1000
_USUAL_BYTES = 32 * 1024
"""Of a rendition, where none is there to go by."""
_OVER = 1.05
"""Times the limit that the use may be: the housekeeping comes after."""
_SAFE = 0.9
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RenditionsFacts:
    """What was seen of the directory, and what the settings allow."""

    disk: DiskFacts
    max_bytes: int

    @property
    def may_grow_bytes(self) -> int:
        """What it may still take."""
        return max(0, self.max_bytes - self.disk.used_bytes)

    @property
    def average_bytes(self) -> float:
        """What a rendition takes on the disk."""
        return self.disk.used_bytes / self.disk.items if self.disk.items else _USUAL_BYTES


async def look(settings: Settings) -> RenditionsFacts:
    """Look at the directory; counting it takes a second or so at most."""
    root = settings.rendition_directory
    try:
        disk = await asyncio.to_thread(examine, str(root))
    except OSError as error:
        advice = (
            "make the folder, owned by the server's user, or name another in"
            " renditions.directory; pictures go out meanwhile, and each is rendered each time"
        )
        raise CheckBlocked(failed(f"{root}: {error.strerror}", advice)) from error
    return RenditionsFacts(disk, settings.renditions.disk_max_bytes)


def judge_write(seen: RenditionsFacts) -> Diagnosis:
    """Whether a rendition can be kept."""
    disk = seen.disk
    if not disk.fault:
        return well(f"{disk.root} takes a block")
    told = f"{disk.root}: {disk.fault}"
    if disk.full:
        advice = "free some room; all below this folder may be deleted, also while serving"
    else:
        advice = "chown it to the server's user; a disk that became read-only is in dmesg"
    return failed(told, advice)


def judge_rename(seen: RenditionsFacts) -> Diagnosis:
    """Whether files can be renamed into place."""
    if not seen.disk.across:
        return well("tmp and renditions are on one file system")
    advice = (
        "nothing can be kept: mount the whole of renditions.directory, and nothing below it"
        " (tmp, 00 to ff) by itself"
    )
    return failed("tmp and renditions are on different file systems", advice)


def judge_room(seen: RenditionsFacts) -> Diagnosis:
    """Whether the disk has what the settings allow."""
    disk = seen.disk
    told = f"{as_bytes(disk.free_bytes)} free, {as_bytes(seen.may_grow_bytes)} may still be used"
    possible = round((disk.used_bytes + disk.free_bytes) * _SAFE / _MIB) * _MIB
    advice = (
        f"lower renditions.disk_max_bytes to {max(possible, _MIB)} and restart, or give the disk"
        " more room"
    )
    if disk.free_bytes < _LEAST_BYTES:
        return failed(told, f"free some room now; then {advice}")
    return warned(told, advice) if disk.free_bytes < seen.may_grow_bytes else well(told)


def judge_inodes(seen: RenditionsFacts) -> Diagnosis:
    """Whether the file system has room for as many files."""
    free = seen.disk.free_inodes
    if free is None:
        return well("this file system has as many as it wants")
    wanted = round(seen.may_grow_bytes / seen.average_bytes)
    told = f"{free} free, some {wanted} may still be used"
    advice = (
        "out of inodes a disk takes no file, however much room it has (df -i): make the file"
        " system anew with more (mkfs.ext4 -i 16384), or lower renditions.disk_max_bytes"
    )
    if free < _LEAST_INODES:
        return failed(told, advice)
    return warned(told, advice) if free < wanted else well(told)


def judge_use(seen: RenditionsFacts) -> Diagnosis:
    """Whether it is kept within its limit."""
    disk = seen.disk
    about = "about " if disk.guessed else ""
    told = (
        f"{about}{counted(disk.items, 'rendition')}, {as_bytes(disk.used_bytes)} of"
        f" {as_bytes(seen.max_bytes)}"
    )
    if disk.used_bytes <= seen.max_bytes * _OVER:
        return well(told)
    advice = (
        "a running server brings it below the limit within renditions.scan_interval_s; has each"
        " that shares the folder the same disk_max_bytes?"
    )
    return warned(told, advice)


def judge_leftovers(seen: RenditionsFacts) -> Diagnosis:
    """Whether files of writers that are gone lie about."""
    disk = seen.disk
    if not disk.abandoned:
        return well("none are left over")
    told = (
        f"{counted(disk.abandoned, 'file')} of writers that are gone, "
        f"{as_bytes(disk.abandoned_bytes)}"
    )
    advice = "a running server sweeps them within the hour; where none runs, delete what is in tmp"
    return warned(told, advice)
