"""Hits with two server processes against one, on the same cores.

For hits in memory wrk needs one of two cores. For hits spread over many files on disk it needs much
less than the server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmarks import longtail, stills
from tests.benchmarks.client import get
from tests.benchmarks.originals import enlarged, imported, kodak
from tests.benchmarks.report import Row, Table
from tests.benchmarks.scrape import scrape
from tests.benchmarks.servers import Smartserve, Unmeasurable, program, smartserve
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
_FILES = 4000
_WARM_UPS = 3
"""Turns until each process has answered nearly every request once, which takes longer."""
_FROM_DISK = {"RENDITIONS__MEMORY_MAX_BYTES": "0", "UPGRADES__ENABLED": "true", **stills.ONE_SIZE}
"""With upgrades, because the stored files are finals that upgrades have made."""


def measure() -> Table:
    """Measure hits per second of one and of two processes, in memory and on disk."""
    program("wrk")
    rows = [*_from_memory(), *_from_disk()]
    return Table(
        f"requests per second; a photograph as AVIF from memory, {_QUERY}, Chrome's headers; and "
        f"{_FILES:,} thumbnails from disk, in random order; {len(os.sched_getaffinity(0))} cores, "
        f"on which wrk runs as well; {_TURNS} turns",
        rows,
        [
            "All answers were 200, from memory or from disk, as the summed metrics say.",
            "From memory: wrk occupies one of two cores, so this shows what processes cost.",
            "From disk: the server does most of the work, as behind a CDN; this shows the gain.",
            "server.processes divides workers and caches; here only the delivery matters.",
        ],
    )


def _from_memory() -> list[Row]:
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
    return rows


def _from_disk() -> list[Row]:
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-multi-")))
        longtail.fill(place / "data", rows=_FILES, files=_FILES)
        contestants: dict[str, Callable[[int], longtail.Spread]] = {}
        for processes, name in _NAMES.items():
            data_dir = shutil.copytree(place / "data", place / f"data-{processes}")
            settings = _settings(processes) | _FROM_DISK
            server = stack.enter_context(smartserve(data_dir, settings=settings))
            contestants[f"{name}, from disk"] = partial(_spread, server, data_dir / "targets.txt")
        for number in range(_WARM_UPS):
            for warm_up in contestants.values():
                warm_up(_TURNS + number)
        taken = in_turns(contestants, turns=_TURNS)
    one, two = taken.values()
    rates = [turn.rate for turn in one]
    first, second = ((name, longtail.remark(turns)) for name, turns in taken.items())
    return [
        Row(first[0], rates, remark=first[1]),
        Row(
            second[0],
            [turn.rate for turn in two],
            yardstick=rates,
            target=TARGET,
            remark=second[1],
        ),
    ]


def _spread(server: Smartserve, targets: Path, turn: int) -> longtail.Spread:
    """Run one turn; the server must have answered all requests from disk."""
    before = scrape(server.address)
    done = longtail.spread(server.address, targets, seed=turn, pid=server.pid)
    answered = scrape(server.address).since(before)
    sources = {source for source, *_ in answered}
    if sources != {"disk"}:
        raise Unmeasurable(f"smartserve counted {dict(answered)}, not only hits on disk")
    return done


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
