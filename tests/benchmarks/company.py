"""Company: how much of the machine others used while something was measured.

A measurement that shares its cores is not worth much: what uses two cores loses more than what
uses one, so that ratios shift as well.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_IDLE = (3, 4)
"""Fields of the ``cpu`` line of /proc/stat that are no work: idle and iowait."""
_COUNTED = 8
"""Those after them are a part of the first ones."""


class Company:
    """Counts from its making on; children of ours count once they have ended."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._all = _busy_s()
        self._own = _own_s()

    def cores(self) -> float:
        """Cores that were busy, on average, with what is not ours."""
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
