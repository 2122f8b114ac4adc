"""Reasons for latency: in each drill exactly the panel of its reason exceeds its threshold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from pathlib import Path

import aiohttp
import pytest

from proxy.domain.request import WIDTHS
from tests.deploy.conftest import Started
from tests.deploy.watch import Prometheus, panels, prometheus, queries
from tests.faults.outage import FRESH, moved_in
from tests.faults.responses import fetch
from tests.faults.tcpproxy import TcpProxy
from tests.platform.pictures import Picture, jpeg
from tests.platform.sending import SECRET, send
from tests.support.mariadb import MariaDB
from tests.support.mounts import Mount
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.drill

_WITHIN_S = 60.0
DATABASE, RENDERS, DISK, LOOP, UPLOADS = "1", "2", "3", "4", "5"
"""The prefix of the panels' titles."""


def lines() -> dict[str, float]:
    """Return the threshold of each panel of the row, by its title."""
    return {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in panels()
        if panel["title"][0].isdigit()
    }


async def reasons(watched: Prometheus) -> set[str]:
    """Return the numbers of the panels above their threshold."""
    found = set()
    for title, line in lines().items():
        for query in queries(title).values():
            if any(value > line for value in await watched.values(query)):
                found.add(title[0])
    return found


async def seen(watched: Prometheus, reason: str) -> set[str]:
    """Return the panels above their threshold, when that of this reason is, within a minute."""
    found: set[str] = set()

    async def shown() -> bool:
        found.clear()
        found.update(await reasons(watched))
        return reason in found

    await eventually(shown, timeout_s=_WITHIN_S, interval_s=1)
    return found


@asynccontextmanager
async def visitors(base: str, targets: Iterable[str], *, at_once: int) -> AsyncIterator[None]:
    """Request the targets in order for the length of the block, ``at_once`` at a time."""
    left = iter(targets)

    async def one(client: aiohttp.ClientSession) -> None:
        for target in left:
            await fetch(client, target)

    async with aiohttp.ClientSession(base) as client:
        tasks = [asyncio.create_task(one(client)) for _ in range(at_once)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def misses(ids: Iterable[int]) -> Iterable[str]:
    """Yield images that a server without a cache must render, without end."""
    kinds = ("webp", "jpeg", "png")
    return cycle(
        f"/serve/{media_id}?w={width}&format={kind}"
        for media_id in ids
        for width in WIDTHS[6:12]
        for kind in kinds
    )


async def test_a_slow_database_is_shown(
    mariadb: MariaDB, data_dir: Path, library: Library, started: Started, tmp_path: Path
) -> None:
    name = await moved_in(mariadb, data_dir, library.ids)
    async with TcpProxy(mariadb.port) as network:
        url = f"mysql+aiomysql://proxy@127.0.0.1:{network.port}/{name}"
        server = await started({"database": {"url": url}})
        with prometheus(tmp_path / "prometheus", target=server.port) as watched:
            network.delay_s = 0.1
            fresh = (f"/serve/{media_id}?w=64&format=jpeg" for media_id in FRESH)
            async with visitors(server.base, fresh, at_once=1):
                assert await seen(watched, DATABASE) == {DATABASE}


async def test_saturated_renders_are_shown(
    library: Library, started: Started, tmp_path: Path
) -> None:
    server = await started({"renditions": {"memory_max_bytes": 0, "disk_max_bytes": 1_048_576}})
    with prometheus(tmp_path / "prometheus", target=server.port) as watched:
        async with visitors(server.base, misses(library.ids.values()), at_once=16):
            found = await seen(watched, RENDERS)
    # If workers and server share two cores, the server also lacks one.
    assert found - {LOOP} == {RENDERS}


async def test_uploads_that_occupy_the_workers_are_shown(
    library: Library, started: Started, tmp_path: Path
) -> None:
    """With a few visitors, who alone would not keep the workers busy."""
    server = await started({"users": {"jwt_secret": SECRET}, "ingest": {"concurrency": 2}})
    picture = Picture("large.jpg", "logo_image", jpeg(1600, 1200, seed=1), servable=True)
    with prometheus(tmp_path / "prometheus", target=server.port) as watched:
        for user in range(1, 41):
            await send(server.base, user, picture)
        async with visitors(server.base, misses(library.ids.values()), at_once=1):
            found = await seen(watched, UPLOADS)
    assert found - {RENDERS, LOOP} == {UPLOADS}


async def test_a_full_disk_is_shown(
    library: Library, started: Started, mounted: Mount, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        server = await started({"renditions": {"directory": disk, "memory_max_bytes": 0}})
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        with prometheus(tmp_path / "prometheus", target=server.port) as watched:
            async with visitors(server.base, misses(library.ids.values()), at_once=1):
                assert await seen(watched, DISK) == {DISK}
        await server.stop()


async def test_without_a_fault_nothing_is_shown(
    library: Library, started: Started, tmp_path: Path
) -> None:
    server = await started({})
    with prometheus(tmp_path / "prometheus", target=server.port) as watched:
        async with visitors(server.base, misses(library.ids.values()), at_once=1):
            # Long enough for every rate of the dashboard, which needs several scrapes.
            await asyncio.sleep(15)
            assert await reasons(watched) == set()
