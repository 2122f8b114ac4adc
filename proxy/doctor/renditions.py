"""Checks of the rendition directory: files can be written, and the disk has enough space."""

from __future__ import annotations

import errno

from proxy.doctor.check import CheckBlocked, Finding, fail, ok, warn
from proxy.doctor.formatting import as_bytes
from proxy.doctor.installation import Installation
from proxy.storage.renditions.diagnostics import inspect_disk, write_probe

_MIN_BYTES = 16 * 1024 * 1024
_MIN_INODES = 1000
_AVERAGE_BYTES = 32 * 1024
"""Assumed size of a rendition if none is stored."""
_SAFE = 0.9
_MIB = 1024 * 1024
_FULL = "free space or inodes; all files below this folder may be deleted, also while serving"
_WRITE_ADVICE = {
    errno.ENOENT: "create the folder for the server's user, or set renditions.directory; until then"
    " every request renders its image again",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EXDEV: "mount renditions.directory as one file system, not tmp or 00 to ff separately:"
    " files are renamed from tmp to their final place",
}


def check_write(installation: Installation) -> Finding:
    """Write, rename and delete one file."""
    root = installation.settings.rendition_directory
    try:
        write_probe(str(root))
    except OSError as error:
        default = "chown it to the server's user; dmesg shows a disk that became read-only"
        finding = fail(f"{root}: {error.strerror}", _WRITE_ADVICE.get(error.errno or 0, default))
        # There is no file system to inspect.
        if error.errno == errno.ENOENT:
            raise CheckBlocked(finding) from error
        return finding
    return ok(f"{root} can be written")


def check_space(installation: Installation) -> Finding:
    """Compare free bytes and inodes with what ``renditions.disk_max_bytes`` still allows."""
    usage = inspect_disk(str(installation.settings.rendition_directory))
    growth = max(0, installation.settings.renditions.disk_max_bytes - usage.used_bytes)
    text = f"{as_bytes(usage.free_bytes)} free, renditions may grow by {as_bytes(growth)}"
    # 90 %: other programs, and renditions that are written before old ones are evicted.
    possible = round((usage.used_bytes + usage.free_bytes) * _SAFE / _MIB) * _MIB
    advice = (
        f"lower renditions.disk_max_bytes to {max(possible, _MIB)} and restart, or enlarge the disk"
    )
    if usage.free_bytes < _MIN_BYTES:
        return fail(text, f"free space now; then {advice}")
    # Inodes run out first if renditions are small, whatever the free bytes are.
    average = usage.used_bytes / usage.files if usage.files else _AVERAGE_BYTES
    files = round(growth / average)
    # Some file systems (btrfs, xfs) allocate inodes as needed and report none.
    if usage.free_inodes is not None and usage.free_inodes < max(_MIN_INODES, files):
        severity = fail if usage.free_inodes < _MIN_INODES else warn
        return severity(
            f"{usage.free_inodes} inodes free, renditions may need {files}",
            "without inodes no file can be created (df -i): create the file system with more"
            " (mkfs.ext4 -i 16384), or lower renditions.disk_max_bytes",
        )
    return warn(text, advice) if usage.free_bytes < growth else ok(text)
