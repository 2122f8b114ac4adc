"""Compares two checkouts of this project: start-up, hits, cold renders.

``python -m tests.benchmarks.revisions OLD NEW`` runs both in alternating pairs, so that the load of
other programs affects both alike. Each checkout needs its own ``.venv`` (``make .venv/.runtime``).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

from tests.benchmarks.client import Connection, fetched
from tests.benchmarks.originals import copies, kodak, large
from tests.benchmarks.report import Row, Table, circumstances, heading
from tests.benchmarks.servers import Address, Unmeasurable, ended, environment
from tests.benchmarks.settling import settle
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import load
from tests.support.server import CHROME

_ANNOUNCED = re.compile(r"^smartserve \S+ on http://([^:]+):(\d+)$")
_CLIENTS = 4
_SECONDS = 2
"""Of one turn of hits."""
_HIT = "/serve/2?size=thumbnail"
_PNG, _JPEG = "PNGs of 0.4 MP", "JPEGs of 6 MP"
_RENDERS = {_PNG: 120, _JPEG: 40}
"""Cold renders of one turn, of each kind of originals."""
_NO_FINALS = {"UPGRADES__ENABLED": "false"}
# Finals are rendered in the requested sizes only. Old revisions render them at the same time as
# drafts, new revisions while the processor is idle.
_FINALS = {"UPGRADES__ALL_SIZES": "false", "UPGRADES__MAX_BACKLOG": "1"}
_PROGRESSIVE = {**_NO_FINALS, "ENCODERS__JPEG__DRAFT__PROGRESSIVE": "true"}
_COLD: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    f"avif of {_PNG}, without finals": (_PNG, "avif", _NO_FINALS),
    f"webp of {_PNG}, without finals": (_PNG, "webp", _NO_FINALS),
    # All revisions encode these drafts with the same options, except the quantisation table.
    f"jpeg of {_PNG}, with finals": (_PNG, "jpeg", _FINALS),
    f"jpeg of {_JPEG}, with finals": (_JPEG, "jpeg", _FINALS),
    f"progressive jpeg of {_PNG}, without finals": (_PNG, "jpeg", _PROGRESSIVE),
    # Only new revisions fit the Huffman tables to the image: a second pass, for 2 % fewer bytes.
    f"jpeg with fitted tables of {_PNG}, without finals": (_PNG, "jpeg", _NO_FINALS),
}
"""Title of each table of cold drafts, with its originals, format and settings."""


def _environment(**settings: str) -> dict[str, str]:
    # Without the setting of the other benchmarks, which old revisions do not know.
    common = "SMARTSERVE_SERVER__LAME_DUCK_S"
    return {name: value for name, value in environment(**settings).items() if name != common}


@contextmanager
def served(checkout: Path, data_dir: Path, **settings: str) -> Iterator[Address]:
    """Run the server of a checkout for the length of the block."""
    process = subprocess.Popen(
        [checkout / ".venv/bin/smartserve", "serve", "--port", "0", "--data-dir", data_dir],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(**settings),
        text=True,
    )
    with ended(process):
        assert process.stdout is not None
        match = _ANNOUNCED.match(process.stdout.readline().rstrip())
        if match is None:
            raise Unmeasurable(f"the server of {checkout} did not start")
        yield match[1], int(match[2])


def start_ms(checkout: Path, data_dir: Path, _turn: int) -> float:
    """Return the milliseconds from the start of the command until ``/readyz`` is 200."""
    began = time.perf_counter()
    with served(checkout, data_dir) as address, Connection(address) as connection:
        while connection.get("/readyz").status != HTTPStatus.OK:
            time.sleep(0.002)
        return 1000 * (time.perf_counter() - began)


def hits_per_s(address: Address, _turn: int) -> float:
    """Return the rate of one final in memory."""
    return load(address, _HIT, accept=CHROME, seconds=_SECONDS).rate


def renders_per_s(address: Address, first: int, count: int, fmt: str, turn: int) -> float:
    """Return the rate of cold renders of images that nobody has requested before.

    The images of turn 0 have the ids from ``first``; each turn requests ``count``.
    """
    first += turn * count
    targets = [f"/serve/{n}?w=640&format={fmt}" for n in range(first, first + count)]
    seconds, _ = fetched(address, targets, clients=_CLIENTS)
    return count / seconds


def measure(checkouts: Mapping[str, Path], pairs: int) -> Iterator[Table]:
    """Yield a table for each figure: the old checkout is the yardstick of the new one."""
    with tempfile.TemporaryDirectory(prefix="smartserve-revisions-") as folder:
        place = Path(folder)
        folders = {name: place / name for name in checkouts}
        for name, checkout in checkouts.items():
            _compile(checkout)
            _import(checkout, place / "originals", folders[name], pairs)
        starts = {
            name: partial(start_ms, checkout, folders[name]) for name, checkout in checkouts.items()
        }
        yield _table("milliseconds until /readyz is 200", starts, pairs)
        with _both(checkouts, folders, {"UPGRADES__ALL_SIZES": "false"}) as addresses:
            for address in addresses.values():
                settle(address, [_HIT], accept=CHROME)
            hits = {name: partial(hits_per_s, address) for name, address in addresses.items()}
            yield _table("hits per second, one final in memory", hits, pairs)
        for title, (originals, fmt, settings) in _COLD.items():
            count = _RENDERS[originals]
            first = 1 if originals == _PNG else 1 + (pairs + 1) * _RENDERS[_PNG]
            with _both(checkouts, folders, settings) as addresses:
                renders = {
                    name: partial(renders_per_s, address, first, count, fmt)
                    for name, address in addresses.items()
                }
                yield _table(f"cold drafts per second: {title}", renders, pairs)


@contextmanager
def _both(
    checkouts: Mapping[str, Path], folders: Mapping[str, Path], settings: Mapping[str, str]
) -> Iterator[Mapping[str, Address]]:
    """Delete all renditions, then run the servers of both checkouts for the length of the block."""
    with ExitStack() as stack:
        addresses = {}
        for name, checkout in checkouts.items():
            shutil.rmtree(folders[name] / "renditions", ignore_errors=True)
            server = served(checkout, folders[name], LOG__ACCESS="false", **settings)
            addresses[name] = stack.enter_context(server)
        yield addresses


def _compile(checkout: Path) -> None:
    # With PYTHONDONTWRITEBYTECODE each start would compile the modules that have changed.
    command: list[str | Path] = [checkout / ".venv/bin/python", "-m", "compileall", "-q", "proxy"]
    subprocess.run(command, cwd=checkout, check=True)


def _import(checkout: Path, originals: Path, data_dir: Path, pairs: int) -> None:
    # One turn more than is counted: the first one is the warm-up.
    photographs = {_PNG: kodak(), _JPEG: large()}
    for kind, photos in photographs.items():
        folder = originals / kind
        folder.mkdir(parents=True, exist_ok=True)
        paths = copies(photos, folder, count=(pairs + 1) * _RENDERS[kind])
        command: list[str | Path] = [checkout / ".venv/bin/smartserve", "import"]
        command += ["--data-dir", data_dir, *paths]
        subprocess.run(
            command, cwd=checkout, check=True, env=_environment(), stdout=subprocess.DEVNULL
        )


def _table(title: str, contestants: Mapping[str, Callable[[int], float]], pairs: int) -> Table:
    for measure_once in contestants.values():
        measure_once(pairs)
    taken = in_turns(contestants, turns=pairs, alternate=True)
    yardstick = next(iter(taken.values()))
    rows = [Row(name, figures, yardstick=yardstick) for name, figures in taken.items()]
    return Table(f"{title}, {pairs} alternating pairs", rows, [])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.revisions")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    print(heading(circumstances()))
    checkouts = {"old": arguments.old.resolve(), "new": arguments.new.resolve()}
    for table in measure(checkouts, arguments.pairs):
        print(f"\n{table.text()}", flush=True)


if __name__ == "__main__":
    main()
