"""Turns: contestants are measured one after the other, round after round, in alternating order.

So the load of other programs affects all of them alike. On a shared machine the second of a pair is
often slower, because its share of time is used up: every other round runs backwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def in_turns(
    contestants: Mapping[str, Callable[[int], T]], *, turns: int, alternate: bool = True
) -> dict[str, list[T]]:
    """Return the figures of each contestant; a measurement receives the number of its turn."""
    taken: dict[str, list[T]] = {name: [] for name in contestants}
    for turn in range(turns):
        step = -1 if alternate and turn % 2 else 1
        for name, measure in list(contestants.items())[::step]:
            print(f"  turn {turn + 1} of {turns}: {name}", file=sys.stderr, flush=True)
            taken[name].append(measure(turn))
    return taken
