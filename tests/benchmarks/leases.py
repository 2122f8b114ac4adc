"""What leases on renders cost a request that has no competitor: lone misses, and hits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from tests.benchmarks import stills
from tests.benchmarks.client import Connection
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import Smartserve, Unmeasurable, listening, program, smartserve
from tests.benchmarks.turns import in_turns
from tests.support.ports import free_port

LIMIT_MS = 5.0
"""Of a lone miss, more than without leases (issue 17)."""
TARGET = 0.97
"""Of the hits without leases, which the code of a hit does not touch."""

_TURNS = 7
_IMAGES, _WIDTHS = (1, 2, 3, 4), (32, 64, 96, 128, 256, 384)
_KEY = "k" * 32
_NONE, _DIRECTORY, _REDIS = "no leases", "locks in the directory", "Redis"
_SETTINGS = {"LOG__ACCESS": "false", "UPGRADES__ENABLED": "false", "ADMIN__KEY": _KEY}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a server."""

    miss_ms: float
    """Median of the misses."""
    rate: float
    """Hits per second."""


def measure() -> Table:
    """Measure milliseconds of lone misses, and hits per second, of three servers in turns."""
    program("wrk")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-lease-")))
        port = free_port()
        redis = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        redis += ["--save", "", "--dir", str(place)]
        stack.enter_context(listening(redis, port, log=place / "redis.log"))
        ways = {
            _NONE: {"CLUSTER__RENDER_ONCE": "false"},
            _DIRECTORY: {"CLUSTER__RENDER_ONCE": "true"},
            _REDIS: {"CLUSTER__REDIS_URL": f"redis://127.0.0.1:{port}/0"},
        }
        contestants = {
            name: _contestant(
                stack.enter_context(
                    smartserve(place / str(number), "--samples", settings={**_SETTINGS, **way})
                )
            )
            for number, (name, way) in enumerate(ways.items())
        }
        taken = in_turns(contestants, turns=_TURNS, warm_up=-1)
    return _table(taken)


def _contestant(server: Smartserve) -> Callable[[int], Turn]:
    def turn(_number: int) -> Turn:
        misses = _missed(server)
        stills.picture(server, tier="memory")
        return Turn(misses, stills.hits(server, tier="memory").rate)

    return turn


def _missed(server: Smartserve) -> float:
    """Return the median milliseconds of misses, one after the other."""
    taken = []
    with Connection(server.address) as connection:
        for media_id in _IMAGES:
            _purge(server, media_id)
            # The first miss after a purge also reads the facts of the source.
            connection.get(f"/serve/{media_id}?w=16&format=jpeg")
            for width in _WIDTHS:
                answer = connection.get(f"/serve/{media_id}?w={width}&format=jpeg")
                if not answer.headers["cache-status"].endswith("detail=render"):
                    raise Unmeasurable(f"no miss: {answer.headers['cache-status']}")
                taken.append(1000 * answer.last_byte_s)
    return median(taken)


def _purge(server: Smartserve, media_id: int) -> None:
    host, port = server.address
    connection = HTTPConnection(host, port, timeout=60)
    with closing(connection):
        path, key = f"/api/media/{media_id}/renditions", {"Authorization": f"Bearer {_KEY}"}
        connection.request("DELETE", path, headers=key)
        status = connection.getresponse().status
    if status != HTTPStatus.OK:
        raise Unmeasurable(f"a purge was answered with {status}")


def _table(taken: Mapping[str, Sequence[Turn]]) -> Table:
    misses = {name: [one.miss_ms for one in turns] for name, turns in taken.items()}
    rates = {name: [one.rate for one in turns] for name, turns in taken.items()}
    rows = [Row(f"ms of a lone miss: {name}", misses[name], misses[_NONE]) for name in taken]
    for name in (_DIRECTORY, _REDIS):
        more = [one - other for one, other in zip(misses[name], misses[_NONE], strict=True)]
        rows.append(Row(f"ms more: {name}", more, yardstick=[LIMIT_MS], limit=1.0))
    rows += [
        Row(
            f"hits/s from memory: {name}",
            rates[name],
            rates[_NONE],
            target=None if name == _NONE else TARGET,
        )
        for name in taken
    ]
    return Table(
        f"cost of leases: the median time of {len(_IMAGES) * len(_WIDTHS)} successive misses "
        f"(JPEGs of up to {_WIDTHS[-1]} pixels), and hits per second; each of the three servers "
        f"has one process; {_TURNS} turns",
        rows,
        ["The misses were renders by their Cache-Status."],
    )
