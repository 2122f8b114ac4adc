"""Compares two checkouts of this project: start-up, hits, cold renders.

``python -m tests.benchmarks.revisions OLD NEW`` runs both in alternating pairs, so that the load of
other programs affects both alike. Each checkout needs its own ``.venv`` (``make .venv/.runtime``).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

from tests.benchmarks.client import Connection
from tests.benchmarks.originals import copies, kodak
from tests.benchmarks.report import Row, Table, circumstances, heading
from tests.benchmarks.servers import Address, Unmeasurable, ended, environment
from tests.benchmarks.settling import settle
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import load
from tests.support.server import CHROME

_ANNOUNCED = re.compile(r"^smartserve \S+ on http://([^:]+):(\d+)$")
_CLIENTS = 4
_RENDERS = 60
"""Cold renders of one turn, for each format."""
_SECONDS = 2
"""Of one turn of hits."""
_HIT = "/serve/2?size=thumbnail"
_FORMATS = ("avif", "webp", "jpeg")


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


def renders_per_s(address: Address, fmt: str, turn: int) -> float:
    """Return the rate of cold renders of images that nobody has requested before."""
    first = 1 + turn * _RENDERS
    targets = [f"/serve/{n}?w=640&format={fmt}" for n in range(first, first + _RENDERS)]

    def fetch(client: int) -> None:
        with Connection(address) as connection:
            for target in targets[client::_CLIENTS]:
                if connection.get(target).status != HTTPStatus.OK:
                    raise Unmeasurable(f"{target} was not answered with 200")

    began = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as clients:
        list(clients.map(fetch, range(_CLIENTS)))
    return len(targets) / (time.perf_counter() - began)


def measure(checkouts: Mapping[str, Path], pairs: int) -> Iterator[Table]:
    """Yield a table for each figure: the old checkout is the yardstick of the new one."""
    with tempfile.TemporaryDirectory(prefix="smartserve-revisions-") as folder:
        place = Path(folder)
        for name, checkout in checkouts.items():
            _import(checkout, place / "originals", place / name, pairs)
        starts = {
            name: partial(start_ms, checkout, place / name) for name, checkout in checkouts.items()
        }
        yield _table("milliseconds until /readyz is 200", starts, pairs)
        quiet = {"LOG__ACCESS": "false"}
        for title, settings, unit in (
            ("hits per second, one final in memory", {"UPGRADES__ALL_SIZES": "false"}, "hits"),
            *(
                (f"cold {fmt} renders per second", {"UPGRADES__ENABLED": "false"}, fmt)
                for fmt in _FORMATS
            ),
        ):
            old, new = checkouts.items()
            with (
                served(old[1], place / old[0], **quiet, **settings) as before,
                served(new[1], place / new[0], **quiet, **settings) as after,
            ):
                addresses = {old[0]: before, new[0]: after}
                yield _table(title, _contestants(addresses, unit), pairs)


def _contestants(
    addresses: Mapping[str, Address], unit: str
) -> Mapping[str, Callable[[int], float]]:
    if unit != "hits":
        return {name: partial(renders_per_s, address, unit) for name, address in addresses.items()}
    for address in addresses.values():
        settle(address, [_HIT], accept=CHROME)
    return {name: partial(hits_per_s, address) for name, address in addresses.items()}


def _import(checkout: Path, originals: Path, data_dir: Path, pairs: int) -> None:
    originals.mkdir(exist_ok=True)
    # One turn more than is counted: the first one is the warm-up.
    paths = copies(kodak(), originals, count=(pairs + 1) * _RENDERS)
    command: list[str | Path] = [checkout / ".venv/bin/smartserve", "import"]
    command += ["--data-dir", data_dir, *paths]
    subprocess.run(command, cwd=checkout, check=True, env=_environment(), stdout=subprocess.DEVNULL)


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
