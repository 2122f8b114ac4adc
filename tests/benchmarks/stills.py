"""One small image requested repeatedly: the ways to serve it, and the load."""

from __future__ import annotations

import os
from collections import Counter
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
CROWD_SECONDS = 2
"""With more connections, which take a part of a second to be opened."""
ONE_SIZE = {"UPGRADES__ALL_SIZES": "false"}
"""Other sizes would be rendered first, which takes time."""
FILE = "/picture.avif"
"""The image, for servers of files."""
THUMBOR = "thumbor, file result store"

CHROME_HEADERS = {
    "Connection": "keep-alive",
    "sec-ch-ua-platform": '"Linux"',
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/142.0.0.0 Safari/537.36",
    "sec-ch-ua": '"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "Sec-Fetch-Site": "same-site",
    "Sec-Fetch-Mode": "no-cors",
    "Sec-Fetch-Dest": "image",
    "Referer": "https://www.example.org/gallery/12",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en-US;q=0.9,en;q=0.8",
}
"""What Chrome sends with a request for an image, besides Accept."""

_PICTURE = "/serve/2?size=thumbnail"
_RESULT = "/unsafe/300x300/filters:format(avif)/kodak-03.jpg"
_COUNTED = 500
"""Requests of the exact count."""


def picture(server: Smartserve, *, tier: str, target: str = _PICTURE) -> Answer:
    """Return the final when it is served from the given tier in Chrome's preferred format."""
    settle(server.address, [target], accept=CHROME)
    answer = get(server.address, target, accept=CHROME)
    found = answer.headers["content-type"], answer.headers["cache-status"]
    if found != ("image/avif", f"smartserve; hit; detail={tier}"):
        raise Unmeasurable(f"{target} is no AVIF from {tier} but {found}")
    return answer


def count_exactly(server: Smartserve, *, tier: str) -> None:
    """Check that the metrics count each hit exactly once."""
    before = scrape(server.address)
    with Connection(server.address) as connection:
        for _ in range(_COUNTED):
            connection.get(_PICTURE, accept=CHROME)
    _check_count(scrape(server.address).since(before), tier, range(_COUNTED, _COUNTED + 1))


def hits(
    server: Smartserve,
    *,
    tier: str,
    target: str = _PICTURE,
    connections: int = CONNECTIONS,
) -> Load:
    """Run one turn; the server's own count must agree with wrk's.

    When wrk stops it leaves one response per connection unread.
    """
    before = scrape(server.address)
    done = asked(server.address, target, connections=connections)
    allowed = range(done.requests, done.requests + connections + 1)
    _check_count(scrape(server.address).since(before), tier, allowed)
    os.truncate(server.log, 0)
    return done


def asked(address: Address, target: str, *, connections: int = CONNECTIONS) -> Load:
    """Run one turn of requests for a target, with Chrome's headers."""
    return load(
        address,
        target,
        accept=CHROME,
        seconds=SECONDS if connections == CONNECTIONS else CROWD_SECONDS,
        connections=connections,
        headers=CHROME_HEADERS,
    )


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
    """Return the median p50 and p99 of each contestant."""
    return {
        name: f"p50 {median(done.p50_ms for done in loads):.2f} ms,"
        f" p99 {median(done.p99_ms for done in loads):.2f} ms"
        for name, loads in taken.items()
    }


def missing(taken: Mapping[str, Sequence[Load]]) -> list[str]:
    """Return a note if thumbor is missing."""
    return [] if THUMBOR in taken else [f"{THUMBOR}: not measured, it could not be installed."]


def _check_count(answered: Counter[Kind], tier: str, allowed: range) -> None:
    found = {(source, fmt, status) for source, _size, fmt, status in answered}
    if found != {(tier, "avif", "200")} or answered.total() not in allowed:
        raise Unmeasurable(f"smartserve counted {dict(answered)}, not {allowed} from {tier}")
