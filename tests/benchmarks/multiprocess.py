"""Hits in memory with two server processes against one, on the same cores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmarks import stills
from tests.benchmarks.client import get
from tests.benchmarks.originals import enlarged, imported, kodak
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import program, smartserve
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import CONNECTIONS, Load
from tests.support.server import CHROME

TARGET = 1.25
"""Of the rate of one process (issue 17, line 6)."""
_NAMES = {1: "one process", 2: "two processes"}
_TURNS = 5
_CROWDS = (CONNECTIONS, 1024)
_QUERY = "w=320"
_WARM_UP = 40
"""Connections, of which each process gets about half. The first hit of each is from disk."""


def measure() -> Table:
    """Measure requests per second at 32 and at 1,024 connections."""
    program("wrk")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-multi-")))
        (media_id,) = imported([enlarged(kodak()[1], 3000, 2000)], place / "data")
        target = f"/serve/{media_id}?{_QUERY}"
        with smartserve(place / "data", settings=_settings(1)) as server:
            get(server.address, target, accept=CHROME)
        contestants: dict[str, Callable[[int], Load]] = {}
        for processes, name in _NAMES.items():
            data_dir = shutil.copytree(place / "data", place / f"data-{processes}")
            server = stack.enter_context(smartserve(data_dir, settings=_settings(processes)))
            for _ in range(_WARM_UP):
                get(server.address, target, accept=CHROME)
            stills.picture(server, tier="memory", target=target)
            for crowd in _CROWDS:
                hits = partial(stills.hits, server, tier="memory", target=target, connections=crowd)
                contestants[_title(name, crowd)] = _turn(hits)
        taken = in_turns(contestants, turns=_TURNS, warm_up=-1)
    rows = []
    for crowd in _CROWDS:
        one, two = ([done.rate for done in taken[_title(name, crowd)]] for name in _NAMES.values())
        remarks = stills.remarks(taken)
        rows += [
            Row(_title(_NAMES[1], crowd), one, remark=remarks[_title(_NAMES[1], crowd)]),
            Row(
                _title(_NAMES[2], crowd),
                two,
                yardstick=one,
                target=TARGET if crowd == CONNECTIONS else None,
                remark=remarks[_title(_NAMES[2], crowd)],
            ),
        ]
    return Table(
        f"requests per second; a photograph as AVIF from memory, {_QUERY}; Chrome's headers; "
        f"{len(os.sched_getaffinity(0))} cores, on which wrk runs as well; {_TURNS} turns",
        rows,
        [
            "All answers were 200 from memory, and the summed metrics counted each of them once.",
            "server.processes divides workers and caches; here only the delivery matters.",
        ],
    )


def _settings(processes: int) -> dict[str, str]:
    return {
        "SERVER__PROCESSES": str(processes),
        "LOG__ACCESS": "false",
        "UPGRADES__ENABLED": "false",
        "WORKERS__COUNT": "2",
    }


def _title(name: str, connections: int) -> str:
    return f"{name}, {connections:,} connections"


def _turn(measured: Callable[[], Load]) -> Callable[[int], Load]:
    return lambda _turn: measured()
