"""Checks of this machine: settings, key files, clock, and the disk of the renditions."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path

from proxy.doctor.check import (
    Finding,
    Findings,
    area,
    as_bytes,
    counted,
    fail,
    ok,
    skip,
    warn,
)
from proxy.doctor.installation import Installation
from proxy.settings import Settings
from proxy.storage.renditions.diagnostics import inspect_disk, write_probe

_EARLIEST, _LATEST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""A clock outside of these is wrong: this program was written in 2026."""
_OTHERS = stat.S_IROTH | stat.S_IWOTH
_KEY_FILES = (
    "admin.key_file",
    "main.key_file",
    "users.jwt_secret_file",
    "ingest.main_api_key_file",
    "vision.google.key_file",
    "vision.openai.key_file",
)
"""Settings that name a file with a secret; users.jwt_public_key_file is none."""
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


@area("settings", "key files", "clock")
async def check_settings(installation: Installation) -> Findings:
    """Check the settings as ``check-config`` does, and what this machine contributes."""
    settings = installation.settings
    # In threads: both read files, and the first may wait for name resolution.
    faults = await asyncio.to_thread(installation.startup_faults, settings)
    text = "; ".join(faults) or f"{installation.config or 'defaults and environment'}: valid"
    advice = "correct each of these settings, then restart the server"
    yield fail(text, advice, when=bool(faults))
    yield await asyncio.to_thread(check_key_files, settings)
    yield judge_clock(datetime.now(UTC))


def check_key_files(settings: Settings) -> Finding:
    """Report key files that every user of this machine can read or write."""
    exposed: list[str] = []
    unreadable: list[str] = []
    files = dict(_key_files(settings))
    for name, path in files.items():
        try:
            if open_to_all(path):
                exposed.append(name)
        except OSError as error:
            unreadable.append(f"{name}: {error.strerror}")
    # The server would not start, or not with this key.
    if unreadable:
        advice = "make each readable for the server's user and for nobody else: chown, chmod 400"
        return fail("; ".join(unreadable), advice)
    if exposed:
        advice = (
            "chmod o-rwx each file, and replace the key if others use this machine;"
            " in Kubernetes set defaultMode: 0440 for the secret"
        )
        return warn(f"every user of this machine can read: {', '.join(exposed)}", advice)
    if not files:
        return skip("no key files")
    return ok(f"{counted(len(files), 'file')}, none open to others")


def _key_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield files with secrets, each with the setting that names it."""
    for name in _KEY_FILES:
        if file := attrgetter(name)(settings):
            yield name, Path(file)
    # The server creates keys of its own here.
    directory = settings.key_directory
    for path in sorted(directory.iterdir()) if directory.exists() else ():
        if path.is_file():
            yield str(path), path


def open_to_all(path: Path) -> bool:
    """Return whether every user can read or write a file: its parent folders must allow it too."""
    # The mode of a link means nothing.
    resolved = path.resolve(strict=True)
    if not resolved.stat().st_mode & _OTHERS:
        return False
    # Without search permission on every parent, others cannot reach the file.
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents)


def judge_clock(now: datetime) -> Finding:
    """Report a clock that cannot be right."""
    # Tokens of users expire by it, and Date and max-age depend on it.
    advice = "set the clock (timedatectl set-ntp true, chronyc makestep): tokens and caches need it"
    return fail(f"{now:%Y-%m-%d %H:%M:%S} UTC", advice, when=not _EARLIEST <= now <= _LATEST)


@area("renditions", "renditions disk space")
async def check_renditions(installation: Installation) -> Findings:
    """Write, rename and delete one file; compare the free space with the settings."""
    root = str(installation.settings.rendition_directory)
    try:
        await asyncio.to_thread(write_probe, root)
    except OSError as error:
        default = "chown it to the server's user; dmesg shows a disk that became read-only"
        yield fail(f"{root}: {error.strerror}", _WRITE_ADVICE.get(error.errno or 0, default))
        # There is no file system to inspect.
        if error.errno == errno.ENOENT:
            return
    else:
        yield ok(f"{root} can be written")
    yield await asyncio.to_thread(check_space, installation.settings)


def check_space(settings: Settings) -> Finding:
    """Compare free bytes and inodes with what ``renditions.disk_max_bytes`` still allows."""
    usage = inspect_disk(str(settings.rendition_directory))
    growth = max(0, settings.renditions.disk_max_bytes - usage.used_bytes)
    text = f"{as_bytes(usage.free_bytes)} free, renditions may grow by {as_bytes(growth)}"
    # 90 %: other programs, and renditions that are written before old ones are evicted.
    possible = max(1, round((usage.used_bytes + usage.free_bytes) * _SAFE / _MIB)) * _MIB
    advice = f"lower renditions.disk_max_bytes to {possible} and restart, or enlarge the disk"
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
    return warn(text, advice, when=usage.free_bytes < growth)
