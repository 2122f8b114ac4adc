"""Turns: contestants measured one after the other, round after round.

What else the machine does then falls on all of them alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def in_turns(contestants: Mapping[str, Callable[[int], T]], *, turns: int) -> dict[str, list[T]]:
    """What each contestant's measurement gave in each turn; it is told the number of the turn."""
    taken: dict[str, list[T]] = {name: [] for name in contestants}
    for turn in range(turns):
        for name, measure in contestants.items():
            print(f"  turn {turn + 1} of {turns}: {name}", file=sys.stderr, flush=True)
            taken[name].append(measure(turn))
    return taken
