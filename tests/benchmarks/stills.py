"""One small image requested repeatedly: the ways to serve it, and the load."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from tests.benchmarks.client import Answer, Connection, get
from tests.benchmarks.peers import thumbor
from tests.benchmarks.scrape import Kind, scrape
from tests.benchmarks.servers import Address, Smartserve, Unmeasurable
from tests.benchmarks.settling import settle
from tests.benchmarks.wrk import CONNECTIONS, Load, load
from tests.support.server import CHROME, SAMPLES

SECONDS = 1
"""Of one turn."""
ONE_SIZE = {"UPGRADES__ALL_SIZES": "false"}
"""Other sizes would be rendered first, which takes time."""
FILE = "/picture.avif"
"""The image, for servers of files."""
THUMBOR = "thumbor, file result store"

_PICTURE = "/serve/2?size=thumbnail"
_RESULT = "/unsafe/300x300/filters:format(avif)/kodak-03.jpg"
_COUNTED = 500
"""Requests of the exact count."""


def picture(server: Smartserve, *, tier: str) -> Answer:
    """Return the final when it is served from the given tier in Chrome's preferred format."""
    settle(server.address, [_PICTURE], accept=CHROME)
    answer = get(server.address, _PICTURE, accept=CHROME)
    found = answer.headers["content-type"], answer.headers["cache-status"]
    if found != ("image/avif", f"smartserve; hit; detail={tier}"):
        raise Unmeasurable(f"{_PICTURE} is no AVIF from {tier} but {found}")
    return answer


def count_exactly(server: Smartserve, *, tier: str) -> None:
    """Check that the metrics count each hit exactly once."""
    before = scrape(server.address)
    with Connection(server.address) as connection:
        for _ in range(_COUNTED):
            connection.get(_PICTURE, accept=CHROME)
    _check_count(scrape(server.address).since(before), tier, range(_COUNTED, _COUNTED + 1))


def hits(server: Smartserve, *, tier: str) -> Load:
    """Run one turn; the server's own count must agree with wrk's.

    When wrk stops it leaves one response per connection unread.
    """
    before = scrape(server.address)
    done = asked(server.address, _PICTURE)
    allowed = range(done.requests, done.requests + CONNECTIONS + 1)
    _check_count(scrape(server.address).since(before), tier, allowed)
    os.truncate(server.log, 0)
    return done


def asked(address: Address, target: str) -> Load:
    """Run one turn of requests for a target, with Chrome's Accept header."""
    return load(address, target, accept=CHROME, seconds=SECONDS)


def folder(place: Path, body: bytes) -> Path:
    """Return a new folder that holds the image."""
    root = place / "static"
    root.mkdir()
    (root / FILE.removeprefix("/")).write_bytes(body)
    return root


@contextmanager
def stored_by_thumbor(place: Path) -> Iterator[Mapping[str, Callable[[int], Load]]]:
    """Yield thumbor as a contestant with the image in its store; nothing if it is not available."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(thumbor(place / "thumbor", SAMPLES, stored=True))
            get(address, _RESULT)
        except Unmeasurable as error:
            print(f"  {THUMBOR}: {error}")
            yield {}
        else:
            yield {THUMBOR: lambda _: asked(address, _RESULT)}


def remarks(taken: Mapping[str, Sequence[Load]]) -> dict[str, str]:
    """Return the median p99 of each contestant."""
    p99 = {name: median(done.p99_ms for done in loads) for name, loads in taken.items()}
    return {name: f"p99 {p99_ms:.2f} ms" for name, p99_ms in p99.items()}


def missing(taken: Mapping[str, Sequence[Load]]) -> list[str]:
    """Return a note if thumbor is missing."""
    return [] if THUMBOR in taken else [f"{THUMBOR}: not measured, it could not be installed."]


def _check_count(answered: Mapping[Kind, int], tier: str, allowed: range) -> None:
    kind = (tier, "thumbnail", "avif", "200")
    if set(answered) != {kind} or answered[kind] not in allowed:
        raise Unmeasurable(f"smartserve counted {dict(answered)}, not {allowed} of {kind}")
