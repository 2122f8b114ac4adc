"""Start-up: the time until the server is ready, by the number of renditions on disk."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from proxy.storage.renditions.disk_state import SHARDS, RenditionPaths, shard_of
from tests.benchmarks.client import await_ready
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import smartserve
from tests.benchmarks.turns import in_turns

COUNTS = (0, 1_000_000)
LIMIT_MS = 1000
"""With a million renditions (issue 3, "Done when")."""

_TURNS = 5
_PER_MEDIUM = 18
"""Six sizes in three formats."""
_LINKS = 60_000
"""ext4 allows 65,000 hard links per file."""
_SPARE_INODES = 200_000


def measure() -> Table:
    """Measure milliseconds from the start of the command until ``/readyz`` is 200."""
    with tempfile.TemporaryDirectory(prefix="smartserve-start-") as folder:
        place, contestants, notes = Path(folder), dict[str, Callable[[int], float]](), []
        for count in COUNTS:
            directory = place / f"renditions-{count}"
            if _room(place) < count // _PER_MEDIUM + _SPARE_INODES:
                notes.append(f"{count:,}: NOT MEASURED: the disk has too few inodes left.")
                continue
            _fill(directory, count)
            contestants[f"{count:,} renditions"] = partial(_ready_ms, place / "data", directory)
        for warm_up in contestants.values():
            warm_up(0)
        taken = in_turns(contestants, turns=_TURNS)
    return _table(taken, notes)


def _room(place: Path) -> int:
    found = os.statvfs(place)
    # File systems that create inodes on demand report none.
    return found.f_favail if found.f_files else sys.maxsize


def _fill(directory: Path, count: int) -> None:
    """Create the store's directories, with hard links to a few files."""
    print(f"  making {count:,} renditions", file=sys.stderr, flush=True)
    layout = RenditionPaths(str(directory))
    for shard in range(SHARDS if count else 0):
        Path(layout.shard(shard)).mkdir(parents=True)
    directory.mkdir(exist_ok=True)
    for start in range(0, count, _PER_MEDIUM):
        original = directory.parent / f"{count}-{start // _LINKS}"
        if not original.exists():
            original.write_bytes(bytes(100))
        media_id = start // _PER_MEDIUM + 1
        medium = f"{directory}/{shard_of(media_id):02x}/{media_id}"
        os.mkdir(medium)  # noqa: PTH102 - a path object for each of them takes as long as the rest
        for number in range(start, min(start + _PER_MEDIUM, count)):
            os.link(original, f"{medium}/{number:032x}.avif")


def _ready_ms(data_dir: Path, directory: Path, _turn: int) -> float:
    settings = {"RENDITIONS__DIRECTORY": str(directory)}
    began = time.perf_counter()
    with smartserve(data_dir, settings=settings) as server:
        await_ready(server.address)
        return 1000 * (time.perf_counter() - began)


def _table(taken: dict[str, list[float]], notes: list[str]) -> Table:
    empty = taken[f"{COUNTS[0]:,} renditions"]
    rows = [Row(name, figures, yardstick=empty) for name, figures in taken.items()]
    largest = list(taken)[-1]
    within = Row(f"{largest}, to one second", taken[largest], yardstick=[LIMIT_MS], limit=1.0)
    return Table(
        f"milliseconds from the start of the command until /readyz is 200, {_TURNS} turns",
        [*rows, within],
        ["Files and directories had just been made: the kernel has them in memory.", *notes],
    )
