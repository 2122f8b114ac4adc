"""Owners of temporary files: names that tell whose a file is, and which of them are abandoned.

A name holds the owner: its PID namespace, its pid and when it started, so that neither a pid that
was given again nor a process in another container on the same volume is mistaken for it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

import xxhash

STALE_S = 3600.0
"""For how long a file that nobody seems to own has to stay as it is."""

_NAME = re.compile(r"([0-9a-f]{16})-([0-9]{1,10})-([0-9]*)-[0-9]+")
_numbers = count()


@dataclass(frozen=True, slots=True)
class TempfileOwner:
    """A process, among all that ever ran here."""

    namespace: str
    pid: int
    started: str

    def alive(self) -> bool:
        """Whether it still runs; a process that cannot be seen from here counts as running."""
        return self.namespace != _namespace() or _started(self.pid) == self.started


class _Sight(NamedTuple):
    """A file as it was seen."""

    path: str
    byte_size: int
    changed_ns: int


def new_name() -> str:
    """A name for a temporary file of this process; never given twice."""
    return f"{_own_prefix(os.getpid())}-{next(_numbers)}"


def owner_of(path: str) -> TempfileOwner | None:
    """Whose a temporary file is, or None where none of our names is in that of the file."""
    name = _NAME.search(path.rpartition("/")[2])
    return None if name is None else TempfileOwner(name[1], int(name[2]), name[3])


class StaleTempfileDetector:
    """Tells which temporary files nobody writes any more.

    Those of a process that has ended are abandoned; those of one that runs here are not, however
    old they look, since clocks jump. Where the owner cannot be seen (another container, a boot
    before this one, another machine) or is not known, a file is abandoned that has not changed for
    `STALE_S` while this looked on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is monotonic, in seconds."""
        self._clock = clock
        self._since: dict[_Sight, float] = {}

    @property
    def suspicious(self) -> bool:
        """Whether the last look left files that may prove to be abandoned."""
        return bool(self._since)

    def abandoned(self, found: Mapping[str, os.stat_result]) -> list[str]:
        """Those of all temporary files there are, by path, that nobody writes any more."""
        now, before = self._clock(), self._since
        gone = [path for path in found if _ended(owner_of(path))]
        unsure = [path for path in found.keys() - gone if _unseen(owner_of(path))]
        sights = {
            path: _Sight(path, found[path].st_size, found[path].st_mtime_ns) for path in unsure
        }
        self._since = {sight: before.get(sight, now) for sight in sights.values()}
        return gone + [
            path for path, sight in sights.items() if now - self._since[sight] >= STALE_S
        ]


def _ended(owner: TempfileOwner | None) -> bool:
    return owner is not None and not owner.alive()


def _unseen(owner: TempfileOwner | None) -> bool:
    return owner is None or owner.namespace != _namespace()


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
