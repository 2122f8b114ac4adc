"""Row 7: no requests create more renditions than the sizes and formats allow."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from random import Random

import pytest

from proxy.domain.formats import NAMES, TRAITS, Format
from proxy.domain.media import MediaFacts
from proxy.domain.request import DPRS, WIDTHS
from proxy.domain.variant import SizeSpec, plan_geometry
from proxy.settings import Settings
from tests.benchmarks.client import Connection
from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.strangers import asked
from tests.faults.table import Figure, Record
from tests.fuzz.mutants import sketches
from tests.fuzz.storage import FIRST_ID, Storage
from tests.support.photos import photo
from tests.support.server import Library

pytestmark = pytest.mark.slow

PICTURES = ("sketch.jpg", "sketch-alpha.png", "sketch-moving.gif")
_CLIENTS = 4
_MOST_GROWTH_BYTES = 24 * 2**20
"""Allowed growth of the server in the second half; 50,000 keys would be 40 MB more."""


def allowed(facts: MediaFacts) -> int:
    """Return how many renditions an image may have: by pixels, format and background."""
    sizes = Settings().size_specs().values()
    boxes = [size.scaled(dpr) for size, dpr in product(sizes, DPRS.values())]
    boxes += [SizeSpec(f"w{width}", width, None) for width in WIDTHS]
    geometries = {plan_geometry(box, facts) for box in boxes}
    formats = {*NAMES.values(), *([Format.GIF] if facts.animated else [])}
    grounds = (False, True) if facts.flat_background else (False,)
    kinds = [
        (fmt, removed)
        for fmt, removed in product(formats, grounds)
        if TRAITS[fmt].alpha or not removed
    ]
    return len(geometries) * len(kinds)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def ask(server: Server, requests: Iterable[tuple[str, str]]) -> Counter[int]:
    """Return the responses to all requests by status; clients share the requests."""
    waiting = iter(list(requests))
    with ThreadPoolExecutor(_CLIENTS) as executor:
        asking = [executor.submit(_ask, server.port, waiting) for _ in range(_CLIENTS)]
        return sum((one.result() for one in asking), Counter())


def _ask(port: int, waiting: Iterator[tuple[str, str]]) -> Counter[int]:
    """Run one client; the server closes its connection after a line that is too long."""
    statuses: Counter[int] = Counter()
    with ExitStack() as stack:
        connection = stack.enter_context(Connection(("127.0.0.1", port)))
        for target, accept in waiting:
            answer = connection.get(target, accept=accept)
            statuses[answer.status] += 1
            if answer.headers.get("connection") == "close":
                connection = stack.enter_context(Connection(("127.0.0.1", port)))
    return statuses


def renditions(server: Server, media_id: int) -> list[Path]:
    """Return the files that the disk cache has of an image."""
    return list((server.data_dir / "renditions").glob(f"*/{media_id}/*"))


@dataclass(frozen=True, slots=True)
class FloodResult:
    """The result of random requests."""

    statuses: Counter[int]
    files: int
    """Renditions on disk at the end."""
    allowed: int
    grown_bytes: int
    """Growth of the server in the second half of the requests, in bytes."""


async def flooded(server: Server, logo: int, count: int) -> FloodResult:
    """Request a logo on a flat background and small images of three kinds, ``count`` times."""
    storage = Storage(server.data_dir)
    ids = [logo, *_put(storage)]
    requests = asked(Random(7), ids, count)
    statuses = await asyncio.to_thread(ask, server, islice(requests, count // 2))
    half = resident_bytes(server.pid)
    statuses += await asyncio.to_thread(ask, server, requests)
    grown = resident_bytes(server.pid) - half
    bounds = {media_id: allowed(_known(storage, media_id)) for media_id in ids}
    files = {media_id: len(renditions(server, media_id)) for media_id in ids}
    assert all(0 < files[media_id] <= bounds[media_id] for media_id in ids), (files, bounds)
    # 301: without a trailing slash the address is one of an image. 414: the line is too long.
    assert {200, 400, 404} <= statuses.keys() <= {200, 301, 400, 404, 414}
    return FloodResult(statuses, sum(files.values()), sum(bounds.values()), grown)


def _put(storage: Storage) -> list[int]:
    ids = [FIRST_ID + place for place in range(len(PICTURES))]
    storage.announce(ids)
    for name, media_id in zip(PICTURES, ids, strict=True):
        storage.put(media_id, sketches()[name])
    return ids


def _known(storage: Storage, media_id: int) -> MediaFacts:
    facts = storage.facts(media_id)
    assert facts is not None
    return facts


async def test_two_thousand_random_urls_create_no_more_files_than_allowed(
    launch: Launch, library: Library
) -> None:
    photo("kodak-23.png")
    server = await launch()
    came = await flooded(server, library.ids["logo"], 2_000)
    assert came.statuses[200] > 500


@pytest.mark.drill
async def test_a_hundred_thousand_random_urls_create_no_more_files_than_allowed(
    launch: Launch, library: Library, record: Record
) -> None:
    """About 40 s."""
    photo("kodak-23.png")
    server = await launch()
    came = await flooded(server, library.ids["logo"], 100_000)
    assert came.statuses.total() == 100_000
    assert came.grown_bytes < _MOST_GROWTH_BYTES
    # The random requests reach most of the allowed renditions, so the bound is really tested.
    assert came.files > came.allowed * 0.8
    grown_mib = came.grown_bytes / 2**20
    measured = f"{came.files} files of {came.allowed} allowed, {grown_mib:+.0f} MiB in its 2nd half"
    record(Figure(7, "random URLs and Accept headers for four pictures", 100_000, 0, measured))
