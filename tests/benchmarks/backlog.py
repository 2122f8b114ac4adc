"""The latency of a cold image with a full queue of finals, compared with no finals."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from statistics import median, quantiles

from tests.benchmarks.client import Answer, fetched
from tests.benchmarks.originals import copies, imported, kodak, large
from tests.benchmarks.processes import Paused
from tests.benchmarks.report import Row, Table
from tests.benchmarks.scrape import figure
from tests.benchmarks.servers import Address, Unmeasurable, smartserve
from tests.benchmarks.turns import in_turns

LIMIT = 1.25
"""Of the p99 without background work (issue 3, "Done when")."""

_TURNS = 5
_RENDERS = 100
"""Per turn; the p99 is the second slowest."""
_CLIENTS = 2
_BACKLOG = 20
_FILLING = 30
"""Images requested to fill the queue; each final takes seconds."""
_OFF, _FULL = "upgrades off", "upgrade queue full"


def measure() -> Table:
    """Measure the p99 of each turn in milliseconds, without finals and with a full queue."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-queue-")))
        cold = imported(copies(kodak(), place, count=(_TURNS + 1) * _RENDERS), place / "data")
        heavy = imported(copies(large()[:1], place, count=_FILLING), place / "data")
        servers = {}
        for name, settings in (
            (_OFF, {"UPGRADES__ENABLED": "false"}),
            (_FULL, {"UPGRADES__MAX_BACKLOG": str(_BACKLOG)}),
        ):
            (place / name).mkdir()
            everywhere = {"RENDITIONS__DIRECTORY": str(place / name), "LOG__ACCESS": "false"}
            opening = smartserve(place / "data", settings=settings | everywhere)
            servers[name] = stack.enter_context(opening)
        targets = [f"/serve/{one}?size=detail&format=avif" for one in heavy]
        fetched(servers[_FULL].address, targets, clients=_CLIENTS)
        contestants: dict[str, Callable[[int], list[Answer]]] = {}
        for name, server in servers.items():
            paused = Paused(server.pid)
            stack.callback(paused.close)
            contestants[name] = _contestant(server.address, paused, cold, full=name == _FULL)
        for warm_up in contestants.values():
            warm_up(_TURNS)
        return _table(in_turns(contestants, turns=_TURNS))


def _contestant(
    address: Address, paused: Paused, ids: Sequence[int], *, full: bool
) -> Callable[[int], list[Answer]]:
    def ask(turn: int) -> list[Answer]:
        part = ids[turn * _RENDERS : (turn + 1) * _RENDERS]
        with paused.awake():
            targets = [f"/serve/{one}?size=detail&format=avif" for one in part]
            _, answers = fetched(address, targets, clients=_CLIENTS)
            _check_backlog(address, full=full)
        return answers

    return ask


def _check_backlog(address: Address, *, full: bool) -> None:
    found = figure(address, "smartserve_upgrade_backlog")
    if full and found < _BACKLOG - 2:
        raise Unmeasurable(f"the queue was not full: {found:g} of {_BACKLOG}")
    if not full and found:
        raise Unmeasurable(f"upgrades are off, and {found:g} wait")


def _table(taken: Mapping[str, Sequence[Sequence[Answer]]]) -> Table:
    waits = {
        name: [[1000 * answer.last_byte_s for answer in turn] for turn in turns]
        for name, turns in taken.items()
    }
    p99 = {name: [_p99(turn) for turn in turns] for name, turns in waits.items()}
    return Table(
        f"p99 of the milliseconds to the last byte, in each turn; a cold AVIF draft of 768 x 512, "
        f"{_CLIENTS} clients, {_TURNS} turns of {_RENDERS}",
        [
            Row(
                name,
                p99[name],
                yardstick=p99[_OFF],
                limit=LIMIT if name == _FULL else None,
                remark=_overall(list(chain.from_iterable(turns))),
            )
            for name, turns in waits.items()
        ],
        [f"The queue holds {_BACKLOG} pictures, and was full at the end of each turn."],
    )


def _overall(waits_ms: Sequence[float]) -> str:
    return f"of all: median {median(waits_ms):.0f} ms, p99 {_p99(waits_ms):.0f} ms"


def _p99(figures: Sequence[float]) -> float:
    return quantiles(figures, n=100, method="inclusive")[-1]
