"""How long a purge at one server takes to reach two others, by the table and with Redis."""

from __future__ import annotations

import http.client
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from tests.benchmarks.client import Connection
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Smartserve, Unmeasurable, listening, program, smartserve
from tests.benchmarks.turns import in_turns
from tests.support.ports import free_port

LIMITS_MS = {"the table": 2000.0, "Redis": 100.0}
"""Until both other servers have applied a purge (issue 17)."""

_TURNS = 5
_PURGES = 10
_OTHERS = 2
_PATIENCE_S = 30.0
_KEY = "benchmark-key-0123456789"
_IMAGE = "/serve/2?size=thumbnail&format=jpeg"
_SETTINGS = {"LOG__ACCESS": "false", "UPGRADES__ENABLED": "false", "ADMIN__KEY": _KEY}


def measure() -> Table:
    """Measure milliseconds from the response of a purge until no other server has the image."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-purge-")))
        port = free_port()
        redis = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        redis += ["--save", "", "--dir", str(place)]
        stack.enter_context(listening(redis, port, log=place / "redis.log"))
        ways = {"the table": {}, "Redis": {"CLUSTER__REDIS_URL": f"redis://127.0.0.1:{port}/0"}}
        taken = in_turns(
            {
                name: _contestant(_cluster(stack, place / name.replace(" ", "-"), way))
                for name, way in ways.items()
            },
            turns=_TURNS,
            warm_up=-1,
        )
    rows = [
        Row(f"ms by {name}", figures, yardstick=[LIMITS_MS[name]], limit=1.0)
        for name, figures in taken.items()
    ]
    return Table(
        f"ms from the response of a purge until {_OTHERS} other servers with directories of their "
        f"own render the image again: medians of {_PURGES} purges, {_TURNS} turns; SQLite",
        rows,
        ["The other servers had the image in memory by their Cache-Status."],
    )


def _cluster(stack: ExitStack, place: Path, way: dict[str, str]) -> Sequence[Smartserve]:
    """Start servers with one database and one directory of originals."""
    place.mkdir()
    first = place / "0"
    shared = {
        "DATABASE__URL": f"sqlite+aiosqlite:///{first / 'smartserve.db'}",
        "STORAGE__ROOT": str(first / "originals"),
    }
    settings = {**_SETTINGS, **way}
    servers = [stack.enter_context(smartserve(first, "--samples", settings=settings))]
    for number in range(_OTHERS):
        folder = place / str(number + 1)
        servers.append(stack.enter_context(smartserve(folder, settings={**settings, **shared})))
    return servers


def _contestant(servers: Sequence[Smartserve]) -> Callable[[int], float]:
    here, *others = servers

    def turn(number: int) -> float:
        del number
        with ExitStack() as stack:
            connections = [stack.enter_context(Connection(one.address)) for one in others]
            return median(_purged(here, connections) for _ in range(_PURGES))

    return turn


def _purged(here: Smartserve, others: Sequence[Connection]) -> float:
    """Purge an image that all others have in memory; return the milliseconds until none has it."""
    for other in others:
        _until(other, in_memory=True)
    host, port = here.address
    purging = http.client.HTTPConnection(host, port, timeout=_PATIENCE_S)
    purging.request(
        "DELETE", "/api/media/2/renditions", headers={"Authorization": f"Bearer {_KEY}"}
    )
    answer = purging.getresponse()
    answer.read()
    began = time.perf_counter()
    purging.close()
    if answer.status != http.client.OK:
        raise Unmeasurable(f"a purge was answered with {answer.status}")
    for other in others:
        _until(other, in_memory=False)
    return 1000 * (time.perf_counter() - began)


def _until(server: Connection, *, in_memory: bool) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while ("memory" in server.get(_IMAGE).headers["cache-status"]) != in_memory:
        if time.monotonic() > deadline:
            raise Unmeasurable(f"not within {_PATIENCE_S:g} s")
