"""Processes under measurement: families, peak memory, and pausing.

A contestant that works in the background would use processor time in the turns of others.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """Return a process and all its descendants, parents first."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            # The thread or the process may have ended since it was listed.
            with suppress(FileNotFoundError, ProcessLookupError):
                found.extend(map(int, children.read_text().split()))
    return found


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process (VmHWM, proc_pid_status(5))."""
    return _status_bytes(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process (VmRSS, proc_pid_status(5))."""
    return _status_bytes(pid, "VmRSS")


def _status_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[name].split()[0]) * 1024


def share_bytes(pid: int) -> int:
    """Return the proportional share of a process in resident memory (Pss, proc_pid_smaps(5)).

    A page that n processes map, such as one of a library, counts as its n-th part.
    """
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    return int(fields["Pss"].split()[0]) * 1024


class Paused:
    """A family of processes that is stopped except within `awake`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._signal(signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the processes run for the length of the block."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """Let the processes run from now on, so that they can end."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for member in family(self._pid):
            with suppress(ProcessLookupError):
                os.kill(member, number)
