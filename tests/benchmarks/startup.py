"""Start-up: the time until the server is ready, by the number of renditions on disk; the help."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from proxy.storage.renditions.disk_state import SHARDS, RenditionPaths, shard_of
from tests.benchmarks.client import await_ready
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import command, environment, file_response, smartserve
from tests.benchmarks.turns import in_turns

COUNTS = (0, 1_000_000)
READY_MS = 600
HELP_MS = 150
"""Limits of issue 14, line 6; that of the start holds with a million renditions as well."""
_BARE, _HELP, _TYPER = "a bare aiohttp server, until it listens", "--help", "python with typer"

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
        contestants[_BARE] = partial(_bare_ms, place)
        contestants[_HELP] = partial(_command_ms, command("--help"))
        contestants[_TYPER] = partial(_command_ms, [sys.executable, "-c", "import typer"])
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


def _bare_ms(place: Path, _turn: int) -> float:
    began = time.perf_counter()
    with file_response(place, place):
        return 1000 * (time.perf_counter() - began)


def _command_ms(arguments: Sequence[str], _turn: int) -> float:
    began = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True, env=environment())
    return 1000 * (time.perf_counter() - began)


def _table(taken: dict[str, list[float]], notes: list[str]) -> Table:
    bare, typer = taken.pop(_BARE), taken.pop(_TYPER)
    helped = taken.pop(_HELP)
    empty = taken[f"{COUNTS[0]:,} renditions"]
    rows = [Row(name, figures, yardstick=empty) for name, figures in taken.items()]
    largest = list(taken)[-1]
    rows += [
        Row(f"{largest}, to {READY_MS} ms", taken[largest], yardstick=[READY_MS], limit=1.0),
        Row(_BARE, bare, yardstick=bare),
        Row(f"{COUNTS[0]:,} renditions, to that", empty, yardstick=bare),
        Row(_TYPER, typer, yardstick=typer),
        Row(_HELP, helped, yardstick=typer),
        Row(f"{_HELP}, to {HELP_MS} ms", helped, yardstick=[HELP_MS], limit=1.0),
    ]
    return Table(
        f"milliseconds until /readyz is 200, or the end of the command, {_TURNS} turns",
        rows,
        ["Files and directories had just been made: the kernel has them in memory.", *notes],
    )
