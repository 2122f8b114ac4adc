"""Hits of one image on disk without a memory cache, against nginx, `FileResponse` and thumbor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import stills
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.servers import file_response, nginx, nginx_version, program, smartserve
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import CONNECTIONS, Load

TARGET = 0.45
"""Of nginx's rate (issue 14, line 4)."""

_TURNS = 5
_TIER = "disk"
_NGINX, _FILES, _SERVED = "nginx, static file", "aiohttp's FileResponse", "smartserve"
_SETTINGS = {
    "RENDITIONS__MEMORY_MAX_BYTES": "0",
    "LOG__ACCESS": "false",
    "UPGRADES__ENABLED": "false",
}


def measure() -> Table:
    """Measure requests per second; each contestant reads the file for each request."""
    for needed in ("nginx", "wrk"):
        program(needed)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-disk-")))
        server = stack.enter_context(smartserve(place / "data", "--samples", settings=_SETTINGS))
        body = stills.picture(server, tier=_TIER).body
        root = stills.folder(place, body)
        static = stack.enter_context(nginx(place / "nginx", root))
        files = stack.enter_context(file_response(place, root))
        stills.count_exactly(server, tier=_TIER)
        contestants: dict[str, Callable[[int], Load]] = {
            _FILES: lambda _: stills.asked(files, stills.FILE),
            _SERVED: lambda _: stills.hits(server, tier=_TIER),
            _NGINX: lambda _: stills.asked(static, stills.FILE),
            **stack.enter_context(stills.stored_by_thumbor(place)),
        }
        for warm_up in contestants.values():
            warm_up(0)
        return _table(in_turns(contestants, turns=_TURNS), len(body))


def _table(taken: Mapping[str, Sequence[Load]], body_bytes: int) -> Table:
    rates = {name: [done.rate for done in loads] for name, loads in taken.items()}
    remarks = stills.remarks(taken)
    rows = [
        Row(
            name,
            rates[name],
            yardstick=rates[_NGINX],
            target=TARGET if name == _SERVED else None,
            remark=remarks[name],
        )
        for name in taken
    ]
    files_ratio = Row(_SERVED, rates[_SERVED], yardstick=rates[_FILES]).ratio
    return Table(
        f"requests per second; a 300-pixel AVIF of {body_bytes:,} bytes from its file with "
        f"Chrome's headers; one process each, wrk with {CONNECTIONS} connections, {_TURNS} turns "
        f"of {stills.SECONDS} s",
        rows,
        [
            "smartserve keeps nothing in memory here, and its metrics counted disk hits only.",
            f"Of FileResponse's rate smartserve has {files_ratio:.2f}; {nginx_version()}.",
            "The others read and send; smartserve also verifies each read, and negotiates.",
            *stills.missing(taken),
        ],
        compared=[
            Comparison(
                "hits per second of one image on disk",
                _NGINX,
                rates[_SERVED],
                rates[_NGINX],
            )
        ],
    )
