"""Turns: contestants are measured one after the other, round after round, in alternating order.

So the load of other programs affects all of them alike. On a shared machine the second of a pair is
often slower, because its share of time is used up: every other round runs backwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from tests.benchmarks.servers import Unmeasurable

T = TypeVar("T")


def in_turns(
    contestants: Mapping[str, Callable[[int], T]],
    *,
    turns: int,
    alternate: bool = True,
    warm_up: int | None = None,
    may_fail: Collection[str] = (),
    notes: list[str] | None = None,
) -> dict[str, list[T]]:
    """Return the figures of each contestant; a measurement receives the number of its turn.

    ``warm_up`` is the number of a turn that comes first and is not counted. A contestant of
    ``may_fail`` that fails is left out, and its cause is added to ``notes``.
    """
    taken: dict[str, list[T]] = {name: [] for name in contestants}
    for turn in (*([] if warm_up is None else [warm_up]), *range(turns)):
        step = -1 if alternate and turn % 2 else 1
        for name in list(taken)[::step]:
            shown = "warm-up" if turn == warm_up else f"turn {turn + 1} of {turns}"
            print(f"  {shown}: {name}", file=sys.stderr, flush=True)
            try:
                figure = contestants[name](turn)
            except Unmeasurable as error:
                if name not in may_fail or notes is None:
                    raise
                notes.append(f"{name}: NOT MEASURED: {error}.")
                del taken[name]
            else:
                if turn != warm_up:
                    taken[name].append(figure)
    return taken
