"""What the number of rows costs: start-up, memory, hits and misses with few rows and with many.

The work is the same for both: equally many files are requested, and equally many images rendered,
so that the ratios show the size of the database alone. `longtail` measures hits that are spread
over a large library.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import longtail, stills
from tests.benchmarks.client import await_ready, fetched
from tests.benchmarks.originals import copies, imported, kodak
from tests.benchmarks.processes import Paused, resident_bytes
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.scrape import scrape
from tests.benchmarks.servers import Smartserve, Unmeasurable, smartserve
from tests.benchmarks.turns import in_turns

COUNTS = (10_000, 1_000_000)
LIMIT = 1.25
"""Of the figure with few rows, for start-up and misses."""

_FILES = 2_000
_TURNS = 5
_RENDERS = 40
"""Misses of one turn."""
_CLIENTS = 4
_MIB = 1024 * 1024
_SETTINGS = {"LOG__ACCESS": "false", **stills.ONE_SIZE}


@dataclass(frozen=True, slots=True)
class Library:
    """A data directory with rows, some renditions, and images that were imported last."""

    data: Path
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Turn:
    """The figures of one turn of one server."""

    hits: float
    """Per second."""
    hit_p99_ms: float
    misses: float
    """Per second."""
    server_mib: float
    """Resident memory of the server process after them."""


def measure() -> Table:
    """Measure both libraries in turns."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-growth-")))
        libraries = {rows: _library(place, rows) for rows in COUNTS}
        starts = in_turns(
            {f"{rows:,} rows": _starter(one) for rows, one in libraries.items()}, turns=_TURNS
        )
        contestants: dict[str, Callable[[int], Turn]] = {}
        for rows, library in libraries.items():
            server = stack.enter_context(smartserve(library.data, settings=_SETTINGS))
            await_ready(server.address)
            paused = Paused(server.pid)
            stack.callback(paused.close)
            contestants[f"{rows:,} rows"] = _contestant(server, paused, library)
        return _table(starts, in_turns(contestants, turns=_TURNS, warm_up=_TURNS))


def _library(place: Path, rows: int) -> Library:
    data = place / f"data-{rows}"
    longtail.fill(data, rows=rows, files=_FILES)
    (originals := place / f"originals-{rows}").mkdir()
    # One turn more than is counted: the first one is the warm-up.
    ids = imported(copies(kodak(), originals, count=_RENDERS * (_TURNS + 1)), data)
    return Library(data, ids)


def _starter(library: Library) -> Callable[[int], float]:
    def start(_turn: int) -> float:
        began = time.perf_counter()
        with smartserve(library.data, settings=_SETTINGS) as server:
            await_ready(server.address)
            return 1000 * (time.perf_counter() - began)

    return start


def _contestant(server: Smartserve, paused: Paused, library: Library) -> Callable[[int], Turn]:
    def measured(turn: int) -> Turn:
        with paused.awake():
            spread = longtail.spread(server.address, library.data / "targets.txt", seed=turn)
            some = library.ids[turn * _RENDERS : (turn + 1) * _RENDERS]
            before = scrape(server.address)
            seconds, _ = fetched(
                server.address,
                [f"/serve/{one}?size=thumbnail&format=webp" for one in some],
                clients=_CLIENTS,
            )
            kinds = scrape(server.address).since(before)
            if sum(kinds[kind] for kind in kinds if kind[0] in {"draft", "render"}) != len(some):
                raise Unmeasurable(f"smartserve counted {dict(kinds)}, not {len(some)} renders")
            memory = resident_bytes(server.pid) / _MIB
        return Turn(spread.rate, spread.p99_ms, len(some) / seconds, memory)

    return measured


def _table(starts: Mapping[str, Sequence[float]], taken: Mapping[str, Sequence[Turn]]) -> Table:
    hits = {name: [turn.hits for turn in turns] for name, turns in taken.items()}
    misses = {name: [turn.misses for turn in turns] for name, turns in taken.items()}
    memory = {name: [turn.server_mib for turn in turns] for name, turns in taken.items()}
    p99 = {name: median(turn.hit_p99_ms for turn in turns) for name, turns in taken.items()}
    remarks = {name: f"p99 {ms:.2f} ms" for name, ms in p99.items()}
    few, many = taken
    return Table(
        f"{many} in SQLite compared with {few}; hits on {_FILES:,} thumbnails in random order, "
        f"wrk with {longtail.CONNECTIONS} connections; {_RENDERS} cold WebP of 300 pixels a turn, "
        f"{_CLIENTS} clients; {_TURNS} turns",
        [
            *_rows("hits/s", hits, few, remarks=remarks),
            *_rows("cold renders/s", misses, few, target=1 / LIMIT),
            *_rows("MiB of the server process after a turn", memory, few, limit=LIMIT),
            *_rows("ms from the command until /readyz is 200", starts, few, limit=LIMIT),
        ],
        [
            "The files of the hits fit into memory in both cases.",
            "Finals are rendered at idle priority; a server is paused in the turns of the other.",
            "Each cold render was one by smartserve's own metrics.",
        ],
        compared=[
            Comparison(f"hits/s on {_FILES:,} images, {many}", few, hits[many], hits[few]),
            Comparison(f"cold renders/s, {many}", few, misses[many], misses[few]),
        ],
    )


def _rows(
    what: str,
    figures: Mapping[str, Sequence[float]],
    yardstick: str,
    *,
    target: float | None = None,
    limit: float | None = None,
    remarks: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    for name in figures:
        bound = name != yardstick
        yield Row(
            f"{what}: {name}",
            figures[name],
            yardstick=figures[yardstick],
            target=target if bound else None,
            limit=limit if bound else None,
            remark=(remarks or {}).get(name, ""),
        )
