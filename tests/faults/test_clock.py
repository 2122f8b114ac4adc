"""Row 22: the wall clock jumps while the server runs (libfaketime)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from itertools import cycle
from pathlib import Path

import aiohttp
import pytest

from tests.faults.conftest import Launch
from tests.faults.responses import Answer, bodies, fetch, fetch_all
from tests.faults.server import Sections, Server
from tests.faults.table import Figure, Record
from tests.faults.test_kill import draw, fill, import_all
from tests.support.server import Library
from tests.support.unavailable import unavailable
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_DAY_S = 86400
_JUMPS_S = (365 * _DAY_S, -365 * _DAY_S, _DAY_S, -_DAY_S, 0)
_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
_MIB = 1024 * 1024
_REMEMBERING: Sections = {
    "log": {"access": False},
    "database": {"row_ttl_s": 3600, "negative_ttl_s": 3600},
    "lifetimes": {"failure_s": 3600},
    "renditions": {"memory_max_bytes": 0, "scan_interval_s": 0.2},
}
"""Cached rows are fresh for an hour of the monotonic clock; disk maintenance never pauses."""


def clock_ahead(seconds: int) -> dict[str, str]:
    """Return the variables of a process whose wall clock is always ``seconds`` ahead.

    Its monotonic clock and file times are not changed.
    """
    if not _LIBRARIES:
        unavailable("libfaketime is not installed")
    return {
        "LD_PRELOAD": str(_LIBRARIES[0]),
        "FAKETIME": f"{seconds:+d}",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


class WallClock:
    """The wall clock of one server, which may jump.

    The server starts slowly, because it reads a file to know the time. For a clock that never
    jumps, use ``clock_ahead``.
    """

    def __init__(self, place: Path) -> None:
        self._stamp = place / "clock"
        self.jump(0)
        self.variables = clock_ahead(0) | {
            "FAKETIME_TIMESTAMP_FILE": str(self._stamp),
            "FAKETIME_NO_CACHE": "1",
        }
        # It would take precedence over the file.
        del self.variables["FAKETIME"]

    def jump(self, seconds: int) -> None:
        """Set the clock ``seconds`` ahead of the true time."""
        new = self._stamp.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._stamp)


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def targets(library: Library, *names: str) -> list[str]:
    return [
        f"/serve/{library.ids[name]}?w={width}&format={kind}"
        for name in names
        for width in (64, 128, 256)
        for kind in ("webp", "jpeg")
    ]


def ahead_s(answer: Answer) -> float:
    """Return how far a response's Date is ahead of the true time."""
    assert answer.headers is not None
    return parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()


_COUNTS: Mapping[str, Mapping[str, str]] = {
    "smartserve_database_queries_total": {},
    "smartserve_row_misses_total": {},
    "smartserve_render_seconds_count": {},
    "smartserve_cache_evictions_total": {},
    "smartserve_cache_corrupt_total": {},
    "smartserve_worker_restarts_total": {},
}


async def counts(server: Server) -> dict[str, float]:
    """Return the counters that an expiry of cached data would increase."""
    return {name: await server.metric(name, **labels) for name, labels in _COUNTS.items()}


async def jumped(
    launch: Launch, library: Library, wall: WallClock, settings: Sections, *, jumps: int
) -> int:
    """Move the clock back and forth under a warm server; return the number of responses.

    Asserts that all responses are as before and dated by the clock, and that nothing was queried,
    rendered or evicted again. An undecodable image stays refused, an unknown one unknown.
    """
    server = await launch(settings, extra=wall.variables)
    (spoilt,) = (server.data_dir / "originals").rglob("logo*")
    spoilt.write_bytes(spoilt.read_bytes()[:33] + bytes(spoilt.stat().st_size - 33))
    warm = targets(library, "photo", "badge")
    refused = {f"/serve/{library.ids['logo']}?w=64": 422, "/serve/999999": 404}
    async with server.client() as client:
        right = bodies(await fetch_all(client, warm))
        assert {one: (await fetch(client, one)).status for one in refused} == refused
        await until_written(server, len(right))
        before = await counts(server)
        for _, jump_s in zip(range(jumps), cycle(_JUMPS_S), strict=False):
            wall.jump(jump_s)
            answers = await fetch_all(client, warm)
            assert bodies(answers) == right
            assert all(abs(ahead_s(one) - jump_s) < 30 for one in answers.values())
            assert {one: (await fetch(client, one)).status for one in refused} == refused
        assert await counts(server) == before
    return jumps * len(warm)


async def until_written(server: Server, count: int) -> None:
    """Return when ``count`` renditions are on the disk and a maintenance run is complete."""

    async def reached() -> bool:
        return await server.metric("smartserve_cache_items", tier="disk") >= count

    await eventually(reached, timeout_s=60)


async def test_cached_data_does_not_expire_when_the_clock_jumps(
    launch: Launch, library: Library, wall: WallClock
) -> None:
    await jumped(launch, library, wall, _REMEMBERING, jumps=2)


@pytest.mark.drill
@pytest.mark.timeout(600)
@pytest.mark.parametrize("memory_max_bytes", [0, 64 * _MIB])
async def test_a_clock_that_jumps_repeatedly_causes_no_query_and_no_render(
    launch: Launch, library: Library, wall: WallClock, record: Record, memory_max_bytes: int
) -> None:
    """With renditions on disk, and in the response cache."""
    renditions = {"memory_max_bytes": memory_max_bytes, "scan_interval_s": 0.2}
    settings = {**_REMEMBERING, "renditions": renditions}
    answers = await jumped(launch, library, wall, settings, jumps=20)
    tier = "memory" if memory_max_bytes else "disk"
    name = f"jumps of a day and a year, hits from {tier}"
    record(Figure(22, name, 20, 0, f"{answers} answers, no query, no render"))


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_renders_in_progress_complete_when_the_clock_jumps(
    launch: Launch, library: Library, wall: WallClock, tmp_path: Path, record: Record
) -> None:
    """No deadline expires, and no temporary file is deleted while it is written."""
    large = library.ids["large"]
    asked = [f"/serve/{large}?w={width}&format=jpeg" for width in (1080, 1200, 1920, 2048)]
    quiet = await launch(_REMEMBERING, data_dir=library.copy(tmp_path / "reference"))
    async with quiet.client() as client:
        right = bodies(await fetch_all(client, asked, at_once=1))
    await quiet.stop()
    server = await launch(_REMEMBERING, extra=wall.variables)
    root, jumps = server.data_dir / "renditions", cycle(_JUMPS_S)
    async with server.client() as client:
        for round_ in range(5):
            asking = asyncio.create_task(fetch_all(client, asked))
            while not asking.done():
                wall.jump(next(jumps))
                await asyncio.sleep(0.02)
            assert bodies(await asking) == right
            await until_stored(server, len(asked) * (round_ + 1))
            assert len(list(root.glob("??/*/*"))) == len(asked)
            for path in root.glob("??/*/*"):
                path.unlink()
    assert await server.metric("smartserve_worker_restarts_total") == 0
    assert await server.metric("smartserve_cache_failures_total") == 0
    record(Figure(22, "jumps while pictures are rendered and written", 5 * len(asked), 0))


async def until_stored(server: Server, count: int) -> None:
    """Wait for the files: a render ends a moment later, and later requests would join it."""

    async def reached() -> bool:
        return await server.metric("smartserve_stage_seconds_count", stage="store") >= count

    await eventually(reached, timeout_s=60)


@pytest.mark.drill
@pytest.mark.timeout(600)
async def test_the_least_recently_used_renditions_are_evicted_when_the_clock_jumps(
    launch: Launch, library: Library, wall: WallClock, tmp_path: Path, record: Record
) -> None:
    """Recently used renditions stay, only what is necessary is evicted, stale tempfiles go."""
    pictures = draw(tmp_path / "pictures", 5)
    import_all(library.copy(tmp_path / "data2"), pictures)
    renditions = {"memory_max_bytes": 0, "scan_interval_s": 0.2, "disk_max_bytes": _MIB}
    settings = {**_REMEMBERING, "renditions": renditions}
    data_dir = tmp_path / "data2"
    fill(data_dir / "renditions", 60, byte_size=16_000)
    # The eviction reads the clock for each file: libfaketime reads its file once a second here, or
    # it would take as long as all the rest.
    cached = {"FAKETIME_NO_CACHE": "0", "FAKETIME_CACHE_DURATION": "1"}
    server = await launch(settings, data_dir=data_dir, extra=wall.variables | cached)
    await until_written(server, 60)
    lowest, evictions = _MIB, 0.0
    async with server.client() as client:
        for number, jump_s in zip(range(5), cycle(_JUMPS_S), strict=False):
            wall.jump(jump_s)
            await until_ahead(client, jump_s)
            left = data_dir / "renditions" / "tmp" / f"left-behind-{number}"
            left.touch()
            os.utime(left, (0, 0))
            one = f"/serve/{len(library.ids) + 1 + number}"
            wanted = [f"{one}?w={width}&format=png" for width in (64, 128, 256)]
            right = bodies(await fetch_all(client, wanted))
            await until_deleted(left)
            lowest = min(lowest, int(await server.metric("smartserve_cache_bytes", tier="disk")))
            before = await server.metric("smartserve_render_seconds_count")
            assert bodies(await fetch_all(client, wanted)) == right
            assert await server.metric("smartserve_render_seconds_count") == before
        evictions = await server.metric("smartserve_cache_evictions_total")
    assert evictions > 0
    assert lowest > 0.8 * _MIB
    measured = f"{evictions:.0f} evictions, never below {lowest / _MIB:.2f} of the limit"
    record(Figure(22, "jumps while renditions are evicted", 5, 0, measured))


async def until_deleted(file: Path) -> None:
    """Return when the maintenance has deleted a file."""
    await eventually(lambda: not file.exists(), timeout_s=60)


async def until_ahead(client: aiohttp.ClientSession, seconds: int) -> None:
    """Return when the server has observed the jump."""

    async def reached() -> bool:
        return abs(ahead_s(await fetch(client, "/healthz")) - seconds) <= 30

    await eventually(reached, timeout_s=60)
