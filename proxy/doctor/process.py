"""The server's own process, found by the port that it listens on, as proc(5) has it. Blocking.

What other users' processes have open only root may see: then there is none to be found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTENS = "0A"
_OPEN_FILES = re.compile(r"^Max open files +\S+ +(\S+)", re.MULTILINE)
_UIDS = re.compile(r"^Uid:\s+\d+\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """What is known of the process."""

    pid: int
    uid: int
    max_files: int | None
    """The hard limit of open files, to which the server raises its soft one; None: no limit."""
    files: int
    """That are open now."""
    cores: int
    """That it may run on."""


def find(port: int) -> ServerProcess | None:
    """The process of this machine that listens on a port, the one with the lowest number."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not sockets:
        return None
    for pid in sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()):
        with suppress(OSError):
            if sockets & set(_open(pid)):
                return _described(pid)
    return None


def _inodes(port: int) -> Iterator[str]:
    """The sockets that listen on a port, over both versions of IP."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _open(pid: int) -> Iterator[str]:
    """What a process has open."""
    for entry in (_PROC / str(pid) / "fd").iterdir():
        with suppress(FileNotFoundError):
            yield str(entry.readlink())


def _described(pid: int) -> ServerProcess:
    home = _PROC / str(pid)
    limit = _OPEN_FILES.search((home / "limits").read_text())
    user = _UIDS.search((home / "status").read_text())
    told = limit[1] if limit else ""
    return ServerProcess(
        pid=pid,
        uid=int(user[1]) if user else os.geteuid(),
        max_files=int(told) if told.isdigit() else None,
        files=len(list((home / "fd").iterdir())),
        cores=len(os.sched_getaffinity(pid)),
    )
