"""The cost of the defence against slow clients per hit: the same server with and without it.

Measured in processor time, which other programs affect less than the rate.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks import stills
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Address, Smartserve, program, smartserve
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import CONNECTIONS

LIMIT = 1.02
"""Of the time without the defence (issue 4: at most 2 % more)."""

_TURNS = 11
_TIER = "memory"
_IDLE = 1000
_WITHOUT, _WITH = "without deadlines and cap", "with them"
_CROWDED = f"with them, {_IDLE:,} idle connections beside"
_PLAIN = {"LOG__ACCESS": "false", "UPGRADES__ENABLED": "false"}
_OFF = {
    "SERVER__HEADER_TIMEOUT_S": "0",
    "SERVER__WRITE_TIMEOUT_S": "0",
    "SERVER__MAX_CONNECTIONS": "0",
}


def measure() -> Table:
    """Measure the time per hit without deadlines and limit, with them, and with idle clients."""
    program("wrk")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-slow-")))
        without = stack.enter_context(_server(place / "without", _OFF))
        within = stack.enter_context(_server(place / "with", {}))
        for server in (without, within):
            stills.picture(server, tier=_TIER)
            stills.count_exactly(server, tier=_TIER)

        def crowded(_turn: int) -> float:
            with _idle(within.address):
                return _hit_us(within)

        contestants: dict[str, Callable[[int], float]] = {
            _WITHOUT: lambda _: _hit_us(without),
            _WITH: lambda _: _hit_us(within),
            _CROWDED: crowded,
        }
        for warm_up in contestants.values():
            warm_up(0)
        return _table(in_turns(contestants, turns=_TURNS))


def _server(data_dir: Path, settings: Mapping[str, str]) -> AbstractContextManager[Smartserve]:
    return smartserve(data_dir, "--samples", settings={**_PLAIN, **settings})


def _hit_us(server: Smartserve) -> float:
    """Return the server's processor time in microseconds per hit of one turn."""
    before = _ran_ns(server.pid)
    done = stills.hits(server, tier=_TIER)
    return (_ran_ns(server.pid) - before) / done.requests / 1000


def _ran_ns(pid: int) -> int:
    """Return the processor time of a process's first thread, which runs the event loop."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


@contextmanager
def _idle(address: Address) -> Iterator[None]:
    """Keep silent connections open for the length of the block, below their deadline."""
    with ExitStack() as stack:
        for _ in range(_IDLE):
            stack.enter_context(socket.create_connection(address))
        yield


def _table(taken: Mapping[str, Sequence[float]]) -> Table:
    rows = [
        Row(
            name,
            figures,
            yardstick=taken[_WITHOUT],
            limit=LIMIT if name == _WITH else None,
        )
        for name, figures in taken.items()
    ]
    return Table(
        f"microseconds of the server's processor time per hit in memory, the kernel's among them; "
        f"deadlines for head and reading and the cap at 0 (off) against their defaults; wrk with "
        f"{CONNECTIONS} connections, {_TURNS} turns of {stills.SECONDS} s",
        rows,
    )
