"""Names of temporary files, which tell whose they are, and which of them are stale.

A name holds the owner: its PID namespace, its pid and when it started, so that neither a pid that
was given again nor a process in another container on the same volume is mistaken for it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import xxhash

STALE_S = 3600
"""The age at which a temporary file is stale whoever owns it."""

_numbers = count()


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, among all that ever ran here."""

    namespace: str
    pid: int
    started: str

    def alive(self) -> bool:
        """Whether it still runs; a process that cannot be seen from here counts as running."""
        return self.namespace != _namespace() or _started(self.pid) == self.started


def new_name() -> str:
    """A name for a temporary file of this process; never given twice."""
    return f"{_own_prefix(os.getpid())}-{next(_numbers)}"


def owner_of(name: str) -> Owner | None:
    """Whose a temporary file is, or None where the name is not one of ours."""
    parts = name.split("-")
    if len(parts) != 4 or not parts[1].isdecimal():  # noqa: PLR2004 - the parts of `new_name`
        return None
    return Owner(parts[0], int(parts[1]), parts[2])


def sweep(directory: str, now: float) -> int:
    """Delete stale temporary files; gives how many. Blocking."""
    swept = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if _stale(entry, now):
                Path(entry.path).unlink(missing_ok=True)
                swept += 1
    return swept


def _stale(entry: os.DirEntry[str], now: float) -> bool:
    if entry.is_dir(follow_symlinks=False):
        return False
    owner = owner_of(entry.name)
    if owner is not None and not owner.alive():
        return True
    try:
        return now - entry.stat(follow_symlinks=False).st_mtime > STALE_S
    except FileNotFoundError:
        return False


@cache
def _own_prefix(pid: int) -> str:
    return f"{_namespace()}-{pid}-{_started(pid)}"


@cache
def _namespace() -> str:
    """This boot and PID namespace; in another one a pid means another process."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    inode = Path("/proc/self/ns/pid").stat().st_ino
    return str(xxhash.xxh3_64_hexdigest(f"{boot} {inode}".encode()))


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot (proc(5)); empty where there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[19]
