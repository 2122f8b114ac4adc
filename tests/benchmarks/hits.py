"""Hits in memory against nginx with the same bytes in a file, and thumbor with a file store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from tests.benchmarks import stills
from tests.benchmarks.report import Row, Table
from tests.benchmarks.servers import (
    Smartserve,
    Unmeasurable,
    nginx,
    nginx_version,
    program,
    smartserve,
)
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import CONNECTIONS, Load

TARGET = 0.45
"""Of nginx's rate (issue 3, "Hot path"; issue 2 asked for 0.30)."""

_TURNS = 5
_TIER = "memory"
_NGINX, _QUIET, _LOGGED = "nginx, static file", "smartserve", "smartserve, access log on"


def measure() -> Table:
    """Measure requests per second: nginx, smartserve without and with access log, thumbor."""
    for needed in ("nginx", "wrk"):
        program(needed)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-hits-")))
        quiet = stack.enter_context(_server(place / "quiet", access_log=False))
        logged = stack.enter_context(_server(place / "logged", access_log=True))
        body = stills.picture(quiet, tier=_TIER).body
        if stills.picture(logged, tier=_TIER).body != body:
            raise Unmeasurable("two servers gave the same picture in different bytes")
        static = stack.enter_context(nginx(place / "nginx", stills.folder(place, body)))
        for server in (quiet, logged):
            stills.count_exactly(server, tier=_TIER)
        contestants: dict[str, Callable[[int], Load]] = {
            _NGINX: lambda _: stills.asked(static, stills.FILE),
            _QUIET: lambda _: stills.hits(quiet, tier=_TIER),
            _LOGGED: lambda _: stills.hits(logged, tier=_TIER),
            **stack.enter_context(stills.stored_by_thumbor(place)),
        }
        for warm_up in contestants.values():
            warm_up(0)
        return _table(in_turns(contestants, turns=_TURNS), len(body))


def _server(data_dir: Path, *, access_log: bool) -> AbstractContextManager[Smartserve]:
    settings = {"LOG__ACCESS": str(access_log).lower(), **stills.ONE_SIZE}
    return smartserve(data_dir, "--samples", settings=settings)


def _table(taken: Mapping[str, Sequence[Load]], body_bytes: int) -> Table:
    rates = {name: [done.rate for done in loads] for name, loads in taken.items()}
    remarks = stills.remarks(taken)
    rows = [
        Row(
            name,
            rates[name],
            yardstick=rates[_NGINX],
            target=TARGET if name == _QUIET else None,
            remark=remarks[name],
        )
        for name in taken
    ]
    return Table(
        f"requests per second; a 300-pixel AVIF of {body_bytes:,} bytes with Chrome's Accept; "
        f"one process each, wrk with {CONNECTIONS} connections, {_TURNS} turns of "
        f"{stills.SECONDS} s",
        rows,
        [
            "All answers were 200, and smartserve's metrics counted each of them as a memory hit.",
            f"{nginx_version()}; one worker, sendfile, no access log.",
            *stills.missing(taken),
        ],
    )
