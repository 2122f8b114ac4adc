"""Hits in memory against nginx with the same bytes in a file, and thumbor with a file store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import stills
from tests.benchmarks.client import get
from tests.benchmarks.originals import enlarged, imported, kodak
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.servers import Unmeasurable, nginx, nginx_version, program, smartserve
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import CONNECTIONS, Load
from tests.support.server import CHROME

CROWD = 1024
"""Connections of a second load."""
SIZES = {"22 KB": "w=320", "200 KB": "w=1280"}
"""Widths of a photograph with the noise of a camera, by the approximate size of its AVIF."""
P99_LIMIT = 3
"""Of nginx's p99 at 1,024 connections (issue 14, line 4)."""

_TURNS = 5
_SETTINGS = {"UPGRADES__ENABLED": "false"}
"""A hit costs the same whether a draft or a final is served, but finals take long to render."""
_TIER = "memory"


class Contest(NamedTuple):
    """A body, a number of connections, and whether requests are logged."""

    size: str
    connections: int
    logged: bool

    @property
    def title(self) -> str:
        """Name what is the same for smartserve and nginx."""
        log = ", access log" if self.logged else ""
        return f"{self.size}, {self.connections:,} connections{log}"

    @property
    def target(self) -> float | None:
        """Return the lowest ratio to nginx's rate that meets the target (issue 14, line 4)."""
        if self.size != "22 KB":
            return None
        if self.connections == CROWD:
            return 0.40
        return 0.50 if self.logged else 0.55


CONTESTS = [
    Contest(size, connections, logged)
    for size in SIZES
    for connections in (CONNECTIONS, CROWD)
    for logged in (False, True)
]


def measure() -> Table:
    """Measure requests per second: nginx and smartserve, each with and without access log."""
    for needed in ("nginx", "wrk"):
        program(needed)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-hits-")))
        root = place / "static"
        root.mkdir()
        contestants: dict[str, Callable[[int], Load]] = {}
        media_id = _rendered(place / "data")
        for logged in (False, True):
            data_dir = shutil.copytree(place / "data", place / f"data-{logged}")
            settings = {"LOG__ACCESS": str(logged).lower(), **_SETTINGS}
            server = stack.enter_context(smartserve(data_dir, settings=settings))
            static = stack.enter_context(nginx(place / f"nginx-{logged}", root, access_log=logged))
            for contest in CONTESTS:
                if contest.logged == logged:
                    target = f"/serve/{media_id}?{SIZES[contest.size]}"
                    file = root / f"{contest.size.replace(' ', '')}.avif"
                    # The first request promotes it from disk to memory.
                    get(server.address, target, accept=CHROME)
                    _store(file, stills.picture(server, tier=_TIER, target=target).body)
                    many = contest.connections
                    hits = partial(stills.hits, server, tier=_TIER, target=target)
                    asked = partial(stills.asked, static, f"/{file.name}")
                    contestants[f"{contest.title}: nginx"] = _turn(asked, many)
                    contestants[f"{contest.title}: smartserve"] = _turn(hits, many)
        contestants |= stack.enter_context(stills.stored_by_thumbor(place))
        for warm_up in contestants.values():
            warm_up(0)
        taken = in_turns(contestants, turns=_TURNS)
        sizes = " and ".join(f"{file.stat().st_size:,}" for file in root.glob("*.avif"))
        return _table(taken, sizes)


def _rendered(data_dir: Path) -> int:
    """Import the photograph and render it; return its id."""
    (media_id,) = imported([enlarged(kodak()[1], 3000, 2000)], data_dir)
    with smartserve(data_dir, settings=_SETTINGS) as server:
        for query in SIZES.values():
            get(server.address, f"/serve/{media_id}?{query}", accept=CHROME)
    return media_id


def _turn(measured: Callable[..., Load], connections: int) -> Callable[[int], Load]:
    return lambda _turn: measured(connections=connections)


def _store(file: Path, body: bytes) -> None:
    """Write the file of nginx, which the bodies of both servers have to equal."""
    if file.exists() and file.read_bytes() != body:
        raise Unmeasurable("two servers gave the same picture in different bytes")
    file.write_bytes(body)


def _table(taken: Mapping[str, Sequence[Load]], sizes: str) -> Table:
    return Table(
        f"requests per second; the AVIF of a photograph with noise, {sizes} bytes; Chrome's "
        f"headers; one process each, wrk with one thread, {_TURNS} turns of {stills.SECONDS} s, "
        f"with {CROWD:,} connections of {stills.CROWD_SECONDS} s",
        [*_rates(taken), *_latencies(taken)],
        [
            "All answers were 200, and smartserve's metrics counted each of them as a memory hit.",
            "wrk repeats its header lines, as a browser does on one page; they are parsed once.",
            f"{nginx_version()}; one worker, sendfile; both access logs are written in batches.",
            *stills.missing(taken),
        ],
        compared=[
            Comparison(
                f"hits per second, {contest.title}", "nginx, static file", *_both(taken, contest)
            )
            for contest in CONTESTS
        ],
    )


def _both(
    taken: Mapping[str, Sequence[Load]], contest: Contest
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the rates of smartserve and of nginx."""
    ours, theirs = taken[f"{contest.title}: smartserve"], taken[f"{contest.title}: nginx"]
    return [done.rate for done in ours], [done.rate for done in theirs]


def _rates(taken: Mapping[str, Sequence[Load]]) -> Iterator[Row]:
    targets = {f"{contest.title}: smartserve": contest.target for contest in CONTESTS}
    remarks = stills.remarks(taken)
    for name, loads in taken.items():
        contest, _, server = name.rpartition(": ")
        peer = taken[f"{contest}: nginx"] if server == "smartserve" else None
        yield Row(
            name,
            [done.rate for done in loads],
            yardstick=None if peer is None else [done.rate for done in peer],
            target=targets.get(name),
            remark=remarks[name],
        )


def _latencies(taken: Mapping[str, Sequence[Load]]) -> Iterator[Row]:
    """Yield the p99 in milliseconds of the many connections, relative to nginx's."""
    for contest in CONTESTS:
        if contest.connections == CROWD:
            ours, theirs = taken[f"{contest.title}: smartserve"], taken[f"{contest.title}: nginx"]
            yield Row(
                f"{contest.title}: p99 in ms",
                [done.p99_ms for done in ours],
                yardstick=[done.p99_ms for done in theirs],
                limit=P99_LIMIT,
            )
