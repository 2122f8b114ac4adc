"""How much of the machine other programs used during a measurement.

A contestant that uses two cores loses more to other programs than one that uses a single core, so a
busy machine changes the ratios.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_IDLE = (3, 4)
"""Fields of the ``cpu`` line of /proc/stat that are not work: idle and iowait."""
_COUNTED = 8
"""The fields after these are included in the first ones."""


class Company:
    """Counts from construction on; our child processes count when they have ended."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._all = _busy_s()
        self._own = _own_s()

    def cores(self) -> float:
        """Return the average number of cores that other programs kept busy."""
        foreign = _busy_s() - self._all - (_own_s() - self._own)
        return max(0.0, foreign / (time.perf_counter() - self._began))


def _busy_s() -> float:
    first = Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(field) for field in first.split()[1 : 1 + _COUNTED]]
    worked = sum(ticks) - sum(ticks[at] for at in _IDLE)
    return worked / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    usages = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
