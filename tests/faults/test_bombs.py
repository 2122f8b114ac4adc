"""Rows 1 and 2: decompression bombs are refused by their headers, at once and without memory."""

from __future__ import annotations

import re
import struct
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
from tests.rendering.worker.imaging import crafted, heif_bombs
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
    "an animated PNG with many frames": crafted.apng(2, 2, pages=2_000),
    "an animated PNG with large frames": crafted.apng(8_000, 8_000, pages=20),
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
    assert (problem["status"], problem["title"]) == (422, "Image cannot be rendered")
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


HEIF: Mapping[str, bytes] = {name: made() for name, made in heif_bombs.BOMBS.items()}


@pytest.mark.parametrize(
    "bombs", [FLOODS, ANIMATIONS, HEIF], ids=["floods", "animations", "items of HEIF"]
)
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
    await unharmed(server, library)


async def unharmed(server: Server, library: Library) -> None:
    """Assert that no worker was started anew, and that the server renders."""
    assert await server.metric("smartserve_worker_restarts_total") == 0
    async with server.client() as client:
        target = f"/serve/{library.ids['photo']}?size=detail&format=webp"
        assert (await client.get(target)).status == 200


def icon(image: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(image), 22) + image


def bitmap(side: int) -> bytes:
    """Return the header of a Windows bitmap, without that of a file."""
    return struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)


OTHER_DECODERS: Mapping[str, bytes] = {
    "a BMP": struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + bitmap(30_000),
    "an icon with a PNG": icon(crafted.png(30_000, 30_000)),
    "an icon with a bitmap": icon(bitmap(30_000) + bytes(64)),
    "a JPEG 2000": b"\xff\x4f\xff\x51"
    + struct.pack(">HHIIIIIIIIH", 47, 0, *(30_000, 30_000, 0, 0) * 2, 3)
    + bytes((7, 1, 1)) * 3
    + b"\xff\x90",
    "a JPEG XL": crafted.jxl(30_000),
    "an animated AVIF with many frames": heif_bombs.sequence(600),
    "an animated AVIF with large frames": heif_bombs.sequence(20, 8_000),
}


async def test_bombs_for_the_other_decoders_are_refused_without_growth(
    data_dir: Path, launch: Launch, library: Library
) -> None:
    ids = plant(data_dir, OTHER_DECODERS)
    server = await warm_server(launch, library)
    await refused(server, ids["a BMP"])
    workers = sorted(server.workers())
    assert len(workers) == 2
    before = sum(map(peak_bytes, workers))
    for name, media_id in ids.items():
        await refused(server, media_id)
        assert sum(map(peak_bytes, workers)) - before < GROWTH_BYTES, name
    assert sorted(server.workers()) == workers
    await unharmed(server, library)


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


NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
DRAWINGS: Mapping[str, str] = {
    "an SVG with entities in entities": (
        '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
        f"<svg {NAMESPACE}><desc>&c;</desc></svg>"
    ),
    "an SVG that draws itself a billion times": (
        f'<svg {NAMESPACE}><rect id="u0"/>'
        + "".join(f'<g id="u{at + 1}">' + f'<use href="#u{at}"/>' * 10 + "</g>" for at in range(9))
        + "</svg>"
    ),
    "an SVG with a deep tree": f"<svg {NAMESPACE}>{'<g>' * 100_000}{'</g>' * 100_000}</svg>",
    "an SVG with many filters": (
        f'<svg {NAMESPACE}><filter id="f">{"<feTurbulence/>" * 5000}</filter></svg>'
    ),
}


async def test_bombs_of_references_are_refused_before_a_worker_draws_them(
    data_dir: Path, launch: Launch, library: Library
) -> None:
    server = await warm_server(launch, library)
    ids = plant(data_dir, {name: text.encode() for name, text in DRAWINGS.items()})
    async with server.client() as client:
        for name, media_id in ids.items():
            async with client.get(f"/serve/{media_id}?size=thumbnail") as answer:
                assert answer.status in (415, 422), name
    await unharmed(server, library)


def nested(element: str, attribute: str) -> bytes:
    """Twenty levels, each of which shows the one below ten times by a rule of a style sheet."""
    rules = "".join(f".p{level}{{{attribute}:url(#p{level})}}" for level in range(20))
    shapes = [f'<path class="p{level}" d="M0 0h9v9z"/>' * 10 for level in range(-1, 20)]
    levels = "".join(
        f'<{element} id="p{level}" width="5" height="5" {element}Units="userSpaceOnUse">'
        f"{shapes[level]}</{element}>"
        for level in range(20)
    )
    style = f"<style>{rules}</style>"
    return f'<svg {NAMESPACE} viewBox="0 0 10 10">{style}{levels}{shapes[20]}</svg>'.encode()


ENDLESS: Mapping[str, bytes] = {
    "patterns": nested("pattern", "fill"),
    "strokes": nested("pattern", "stroke"),
    "masks": nested("mask", "mask"),
}


@pytest.mark.parametrize("way", ENDLESS)
async def test_a_drawing_that_takes_for_ever_costs_one_worker_and_is_quarantined(
    data_dir: Path, launch: Launch, library: Library, way: str
) -> None:
    """Its patterns contain each other in a way that is not counted in advance."""
    server = await launch({"workers": {"count": 1, "deadline_s": 2, "wall_clock_factor": 100}})
    (media_id,) = plant(data_dir, {"bomb.svg": ENDLESS[way]}).values()
    async with server.client() as client:
        statuses = [(await client.get(f"/serve/{media_id}?w=64")).status for _ in range(3)]
        good = await client.get(f"/serve/{library.ids['photo']}?size=thumbnail")
    assert statuses[0] == 504
    assert set(statuses) <= {503, 504}
    assert good.status == 200
    # A job that uses up its time is not repeated; further requests reach no worker.
    assert await server.metric("smartserve_worker_restarts_total", reason="deadline") == 1
