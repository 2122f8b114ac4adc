"""What leases on renders cost a request that has no competitor: lone misses, and hits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import stills
from tests.benchmarks.client import Connection
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import (
    Smartserve,
    Unmeasurable,
    free_port,
    listening,
    program,
    smartserve,
)
from tests.benchmarks.turns import in_turns

LIMIT_MS = 5.0
"""Of a lone miss, more than without leases (issue 17)."""
TARGET = 0.97
"""Of the hits without leases, which the code of a hit does not touch."""

_TURNS = 7
_MISSES = 20
_NONE, _DIRECTORY, _REDIS = "no leases", "locks in the directory", "Redis"
_SETTINGS = {"LOG__ACCESS": "false", "UPGRADES__ENABLED": "false"}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a server."""

    miss_ms: float
    """Median of the misses."""
    rate: float
    """Hits per second."""


def measure() -> Table:
    """Measure milliseconds of lone misses, and hits per second, of three servers in turns."""
    program("wrk")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-lease-")))
        port = free_port()
        redis = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        redis += ["--save", "", "--dir", str(place)]
        stack.enter_context(listening(redis, port, log=place / "redis.log"))
        ways = {
            _NONE: {"CLUSTER__RENDER_ONCE": "false"},
            _DIRECTORY: {"CLUSTER__RENDER_ONCE": "true"},
            _REDIS: {"CLUSTER__REDIS_URL": f"redis://127.0.0.1:{port}/0"},
        }
        contestants = {
            name: _contestant(
                stack.enter_context(
                    smartserve(place / str(number), "--samples", settings={**_SETTINGS, **way})
                )
            )
            for number, (name, way) in enumerate(ways.items())
        }
        taken = in_turns(contestants, turns=_TURNS, warm_up=-1)
    return _table(taken)


def _contestant(server: Smartserve) -> Callable[[int], Turn]:
    def turn(number: int) -> Turn:
        loads = stills.hits(server, tier="memory")
        return Turn(_missed(server, number), loads.rate)

    stills.picture(server, tier="memory")
    return turn


def _missed(server: Smartserve, turn: int) -> float:
    """Return the median milliseconds of misses, one after the other: each in another width."""
    first = 100 + _MISSES * (turn + 1)
    taken = []
    with Connection(server.address) as connection:
        for width in range(first, first + _MISSES):
            answer = connection.get(f"/serve/2?w={width}&format=jpeg")
            if "render" not in answer.headers["cache-status"]:
                raise Unmeasurable(f"no miss: {answer.headers['cache-status']}")
            taken.append(1000 * answer.last_byte_s)
    return median(taken)


def _table(taken: Mapping[str, Sequence[Turn]]) -> Table:
    misses = {name: [one.miss_ms for one in turns] for name, turns in taken.items()}
    rates = {name: [one.rate for one in turns] for name, turns in taken.items()}
    rows = [Row(f"ms of a lone miss: {name}", misses[name], misses[_NONE]) for name in taken]
    for name in (_DIRECTORY, _REDIS):
        more = [one - other for one, other in zip(misses[name], misses[_NONE], strict=True)]
        rows.append(Row(f"ms more: {name}", more, yardstick=[LIMIT_MS], limit=1.0))
    rows += [
        Row(
            f"hits/s from memory: {name}",
            rates[name],
            rates[_NONE],
            target=None if name == _NONE else TARGET,
        )
        for name in taken
    ]
    return Table(
        f"leases on renders: medians of {_MISSES} misses in a row, each a JPEG of another width, "
        f"and hits by wrk; three servers of one process, {_TURNS} turns",
        rows,
        ["The misses were renders by their Cache-Status."],
    )
