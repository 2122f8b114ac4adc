"""Hits of one private image with a signed URL, against hits of the same image, made public."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from proxy.domain.signature import Scope, UrlKeys, rendition_text
from tests.benchmarks import stills
from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.servers import program, smartserve
from tests.benchmarks.turns import in_turns
from tests.benchmarks.wrk import CONNECTIONS

TARGET = 0.95
"""Of the rate of the public image (issue 16)."""

_TURNS = 7
_TIER = "memory"
_KEYS = {"bench": "k" * 32}
_PUBLIC, _SIGNED = "public", "private, signed URL"
_SETTINGS = {"LOG__ACCESS": "false", "UPGRADES__ENABLED": "false"}
_PRIVATE = {
    "ACCESS__KEYS": json.dumps(_KEYS),
    "ACCESS__DEFAULT_VISIBILITY__PRODUCT": "private",
}


def measure() -> Table:
    """Measure requests per second of two servers with equal data in alternating turns."""
    program("wrk")
    covers = rendition_text(box="size=thumbnail&dpr=1", fmt=None, bg=None)
    parameters = UrlKeys(_KEYS).parameters(
        Scope.RENDITION, 2, covers, expires=int(time.time()) + 86_400
    )
    plain = "/serve/2?size=thumbnail"
    signed = f"{plain}&{parameters}"
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartserve-signed-")))
        public = stack.enter_context(smartserve(place / "a", "--samples", settings=_SETTINGS))
        private = stack.enter_context(
            smartserve(place / "b", "--samples", settings={**_SETTINGS, **_PRIVATE})
        )
        body = stills.picture(public, tier=_TIER, target=plain).body
        stills.picture(private, tier=_TIER, target=signed)
        taken = in_turns(
            {
                _PUBLIC: lambda _: stills.hits(public, tier=_TIER, target=plain),
                _SIGNED: lambda _: stills.hits(private, tier=_TIER, target=signed),
            },
            turns=_TURNS,
            warm_up=-1,
        )
    rates = {name: [done.rate for done in loads] for name, loads in taken.items()}
    remarks = stills.remarks(taken)
    return Table(
        f"requests per second; a 300-pixel AVIF of {len(body):,} bytes from memory with Chrome's "
        f"headers; two servers, one process each, wrk with {CONNECTIONS} connections, {_TURNS} "
        f"turns of {stills.SECONDS} s",
        [
            Row(
                name,
                rates[name],
                yardstick=rates[_PUBLIC],
                target=TARGET if name == _SIGNED else None,
                remark=remarks[name],
            )
            for name in taken
        ],
        ["The signed request is 96 characters longer; the metrics counted memory hits only."],
        compared=[
            Comparison(
                "hits per second of a private image with a signed URL",
                "the same image, public",
                rates[_SIGNED],
                rates[_PUBLIC],
            )
        ],
    )
