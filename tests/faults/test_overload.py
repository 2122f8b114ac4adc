"""Row 21: ten times the load that can be rendered; hits stay fast, surplus misses are refused."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.benchmarks.processes import peak_bytes
from tests.faults.conftest import Launch
from tests.faults.flood import Order, Report, apart, flood
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.server import CHROME, Library

pytestmark = pytest.mark.slow

_FRESH = range(1001, 9001)
_WARM = 120
"""Images with a stored thumbnail, which can serve as fallback."""
_BURST = 140
_TIMES = 10
_LOAD_S = 10.0
_HITS_PER_S = 50.0
_NORMAL_S = 5.0
_HIT_MS, _TOLD_MS = 50.0, 100.0
_QUIET_MS = 5.0
"""Allowed lateness of one in a hundred wake-ups on an idle machine, in seconds."""
_GROWTH_BYTES = 128 * 1024 * 1024
_QUERY = "size=detail&format=webp"


def _multiply(data_dir: Path, photo: int) -> None:
    """Return rows that show the photo, with facts, and that were never requested."""
    rows = (
        "user_id, data_type, original_name, mime_type, file_size, bulk_path, status, main_api_id, "
        "created_at, updated_at"
    )
    facts = (
        "content_hash, byte_size, source_type, width, height, has_alpha, pages, flat_background, "
        "focus_x, focus_y, source_path, row_version, learned_at"
    )
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database:
        for table, key, columns in (
            ("media_files", "id", rows),
            ("media_facts", "media_id", facts),
        ):
            database.executemany(
                f"INSERT INTO {table} ({key}, {columns}) "
                f"SELECT ?, {columns} FROM {table} WHERE {key} = ?",
                [(media_id, photo) for media_id in _FRESH],
            )
        database.commit()


async def _render_rate(server: Server, targets: list[str]) -> float:
    """Return the misses per second that workers render if they never wait."""
    began = time.perf_counter()
    async with server.client() as client, asyncio.TaskGroup() as group:
        queue = iter(targets)

        async def work() -> None:
            for target in queue:
                async with client.get(target) as answer:
                    assert answer.status == 200

        for _ in range(4):
            group.create_task(work())
    return len(targets) / (time.perf_counter() - began)


async def _seconds(server: Server, target: str) -> float:
    async with server.client() as client:
        began = time.perf_counter()
        async with client.get(target) as answer:
            assert answer.status == 200
            assert "fallback" not in answer.headers["Cache-Status"]
        return time.perf_counter() - began


async def _lateness(seconds: float) -> Report:
    """Return how late this machine wakes a process."""
    report = Report({"late": []})
    end = time.perf_counter() + seconds
    while (due := time.perf_counter() + 0.02) < end:
        await asyncio.sleep(due - time.perf_counter())
        report.seconds["late"].append(time.perf_counter() - due)
    return report


@pytest.mark.drill
@pytest.mark.alone
async def test_hits_stay_fast_under_ten_times_the_load(
    launch: Launch, library: Library, data_dir: Path, record: Record
) -> None:
    """About 20 s. Its times are meaningful only on an otherwise idle machine."""
    idle = await _lateness(2)
    _multiply(data_dir, library.ids["photo"])
    server = await launch()
    fresh = (f"/serve/{media_id}?{_QUERY}" for media_id in _FRESH)
    warm = [f"/serve/{media_id}?size=thumbnail&format=webp" for media_id in _FRESH[-_WARM:]]
    await _render_rate(server, warm)
    rate = await _render_rate(server, list(islice(fresh, 60)))
    before_s = max([await _seconds(server, next(fresh)) for _ in range(5)])
    peak = peak_bytes(server.pid)
    count = int(_TIMES * rate * _LOAD_S)
    misses = _misses(fresh, count)
    surplus, hits = await asyncio.gather(
        apart(Order(server.port, misses, _TIMES * rate, _LOAD_S)),
        flood(Order(server.port, warm, _HITS_PER_S, _LOAD_S)),
    )
    async with asyncio.timeout(_NORMAL_S):
        while await _seconds(server, next(fresh)) > 2 * before_s:
            pass
    assert set(hits.counts) == {"whole"}
    assert set(surplus.counts) == {"whole", "refused", "fallback"}
    assert surplus.counts.total() == count
    assert peak_bytes(server.pid) - peak < _GROWTH_BYTES
    told_ms = max(surplus.part_ms(kind, 0.99) for kind in ("refused", "fallback"))
    times = (
        ("hits", hits.part_ms("whole", 0.99), _HIT_MS),
        ("surplus", told_ms, _TOLD_MS),
    )
    measured = ", ".join(_verdict(*one) for one in times)
    if idle.part_ms("late", 0.99) > _QUIET_MS:
        measured = "others keep this machine busy, times say nothing"
    record(Figure(21, f"ten times {rate:.0f} misses a second", count, 0, measured))


@pytest.mark.alone
async def test_a_burst_of_new_images_is_answered_completely(
    launch: Launch, library: Library, data_dir: Path
) -> None:
    """A gallery page over HTTP/2: all its thumbnails are requested at once, none is stored."""
    _multiply(data_dir, library.ids["photo"])
    # Others may keep this machine so busy that its workers need minutes.
    server = await launch({"workers": {"count": 2, "nice": 0, "max_queue_wait_s": 120}})
    targets = [f"/serve/{media_id}?size=thumbnail" for media_id in _FRESH[:_BURST]]
    async with server.client() as client:

        async def status(target: str) -> int:
            async with client.get(target, headers={"Accept": CHROME}) as answer:
                await answer.read()
                assert "fallback" not in answer.headers.get("Cache-Status", "")
                return answer.status

        statuses = Counter(await asyncio.gather(*map(status, targets)))
    assert statuses == {200: _BURST}


def _verdict(what: str, found_ms: float, asked_ms: float) -> str:
    """Return a 99th percentile with its target, as the benchmarks print theirs.

    On two cores shared by server, workers and this client both targets are met, but not by a wide
    margin: so they are printed, and not asserted.
    """
    met = "pass" if found_ms <= asked_ms else "MISS"
    return f"{what} p99 {found_ms:.0f} ms, <= {asked_ms:.0f} {met}"


def _misses(fresh: Iterator[str], count: int) -> list[str]:
    """Yield misses; every second one has no fallback."""
    pairs = zip(islice(fresh, count // 2), cycle(_fallbacks()), strict=False)
    return [target for pair in pairs for target in pair]


def _fallbacks() -> list[str]:
    """Return renditions of images with a thumbnail, in sizes that are not stored."""
    return [
        f"/serve/{media_id}?w={width}&format=webp"
        for width in (640, 384, 256, 128, 96, 64, 48, 32)
        for media_id in _FRESH[-_WARM:]
    ]
