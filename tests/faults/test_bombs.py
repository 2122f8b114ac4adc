"""Rows 1 and 2: decompression bombs are refused by their headers, at once and without memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

import pytest

from tests.benchmarks.processes import peak_bytes
from tests.faults.conftest import Launch
from tests.faults.planting import plant
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.rendering.worker.imaging import crafted
from tests.support.server import Library

pytestmark = pytest.mark.slow

FLOODS: Mapping[str, bytes] = {
    "a PNG of 41 bytes and 30,000 a side": crafted.headless_png(30_000, 30_000),
    "a PNG of 41 bytes and 2 GB, interlaced": crafted.headless_png(
        16_384, 16_384, depth=16, colour=6, interlace=1
    ),
    "a PNG of 65,536 a side": crafted.png(65_536, 65_536),
    "a PNG as wide as can be": crafted.png(65_536, 1),
    "a PNG as high as can be": crafted.png(1, 65_536),
    "a PNG of 16 bits, interlaced": crafted.png(16_000, 16_000, depth=16, colour=6, interlace=1),
    "a PNG within the pixels and over the bytes": crafted.png(9_900, 9_900, depth=16, colour=6),
    "a PNG of one bit a pixel": crafted.png(16_384, 16_384, depth=1, colour=0),
    "a JPEG of 65,500 a side": crafted.jpeg(65_500, 65_500),
    "a JPEG with bands enough": crafted.jpeg(12_000, 12_000, components=4),
}
ANIMATIONS: Mapping[str, bytes] = {
    "a GIF with large pages": crafted.gif(8_000, 8_000, pages=40),
    "a GIF whose pages overflow 32 bits": crafted.gif(65_535, 65_535, pages=3),
    "a GIF whose height wraps around to nothing": crafted.gif(16, 16_384, pages=262_144),
    "a GIF with many pages": crafted.gif(2, 2, pages=2_000),
    "a WebP with many pages": crafted.webp(16, 16, pages=1_000),
    "a WebP with large pages": crafted.webp(16_000, 6_000, pages=20),
}
GROWTH_BYTES = 10 * 1024 * 1024
COPIES = 20


def numbered_copies(bomb: bytes) -> Iterator[bytes]:
    """Yield copies with different content: bytes behind the end, which no decoder reads."""
    for number in range(COPIES):
        yield bomb + b"%04d" % number


async def refused(server: Server, media_id: int) -> float:
    """Return the milliseconds that a 422 took."""
    async with server.client() as client:
        began = time.perf_counter()
        async with client.get(f"/serve/{media_id}?size=thumbnail&format=webp") as answer:
            problem = await answer.json(content_type="application/problem+json")
        seconds = time.perf_counter() - began
    assert answer.status == 422, problem
    assert re.search("are allowed|more than 500 pages", problem["detail"])
    assert answer.headers["Cache-Control"] == "no-store"
    return 1000 * seconds


async def warm_server(launch: Launch, library: Library) -> Server:
    """Start a server of one worker that has rendered an image, so that its memory is stable."""
    server = await launch({"workers": {"count": 1}})
    async with server.client() as client:
        for name in ("photo", "large"):
            target = f"/serve/{library.ids[name]}?size=thumbnail&format=webp"
            assert (await client.get(target)).status == 200
    return server


@pytest.mark.parametrize("bombs", [FLOODS, ANIMATIONS], ids=["floods", "animations"])
async def test_bombs_are_refused_without_growth_of_the_workers(
    bombs: Mapping[str, bytes], data_dir: Path, launch: Launch, library: Library
) -> None:
    ids = plant(data_dir, bombs)
    server = await warm_server(launch, library)
    (worker,) = server.workers()
    before = peak_bytes(worker)
    for name, media_id in ids.items():
        await refused(server, media_id)
        assert peak_bytes(worker) - before < GROWTH_BYTES, name
    assert server.workers() == [worker]
    assert await server.metric("smartserve_worker_restarts_total") == 0


@pytest.mark.drill
@pytest.mark.parametrize(
    ("row", "bombs"), [(1, FLOODS), (2, ANIMATIONS)], ids=["floods", "animations"]
)
async def test_bombs_are_refused_within_50_ms(
    row: int,
    bombs: Mapping[str, bytes],
    data_dir: Path,
    launch: Launch,
    library: Library,
    record: Record,
) -> None:
    copies = {
        f"{name} {number}": copy
        for name, bomb in bombs.items()
        for number, copy in enumerate(numbered_copies(bomb))
    }
    ids = plant(data_dir, copies)
    server = await warm_server(launch, library)
    (worker,) = server.workers()
    before = peak_bytes(worker)
    taken = sorted([await refused(server, media_id) for media_id in ids.values()])
    growth = peak_bytes(worker) - before
    assert growth < GROWTH_BYTES
    assert median(taken) < 50
    figures = f"{median(taken):.0f} ms, 95 % {taken[len(taken) * 95 // 100]:.0f} ms, "
    memory = f"worker +{growth / 2**20:.1f} MB"
    record(Figure(row, f"bombs of {len(bombs)} kinds asked for", len(taken), 0, figures + memory))
