"""Row 4: the intact part of a damaged source is rendered; an interrupted render is not an image."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from tests.faults.conftest import Launch
from tests.faults.planting import plant
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.photos import photo
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

DAMAGED = ("flowers.jpg", "kodak-03.png", "photo.webp", "photo.avif", "animated.gif", "scan.tiff")
CUTS = (0.05, 0.3, 0.6, 0.9, 0.999)
FLIPS = 5
IDLE_DESCRIPTORS = 4
"""Descriptors of an idle worker: the standard streams and its socket."""


def damaged() -> dict[str, bytes]:
    """Return real images, truncated or with bits flipped behind the header."""
    chance = random.Random(4)
    found = {"truncated.jpg": photo("truncated.jpg").read_bytes()}
    for name in DAMAGED:
        whole = photo(name).read_bytes()
        found.update({f"{name} cut at {part}": whole[: int(len(whole) * part)] for part in CUTS})
        for number in range(FLIPS):
            flipped = bytearray(whole)
            flipped[chance.randrange(700, len(whole))] ^= 1 << chance.randrange(8)
            found[f"{name} flipped {number}"] = bytes(flipped)
    return found


def kept(data_dir: Path) -> list[Path]:
    """Return the files of the rendition store."""
    return [path for path in (data_dir / "renditions").rglob("*.*") if path.is_file()]


async def test_a_damaged_source_is_answered_with_a_whole_image_or_a_problem(
    data_dir: Path, launch: Launch, library: Library, record: Record
) -> None:
    sources = damaged()
    ids = plant(data_dir, sources)
    server = await launch({"lifetimes": {"failure_s": 60}})
    rendered = refused = 0
    async with server.client(headers={"Accept": "image/webp"}) as client:
        for name, media_id in ids.items():
            async with client.get(f"/serve/{media_id}?w=128") as answer:
                body = await answer.read()
            if answer.status == 200:
                Image.open(io.BytesIO(body)).load()
                rendered += 1
            else:
                assert answer.status in (415, 422), (name, body)
                assert answer.headers["Cache-Control"] == "no-store"
                refused += 1
    assert rendered > len(ids) / 2, "a picture that misses its end is shown as far as it goes"
    assert refused > 0
    assert await server.metric("smartserve_worker_restarts_total") == 0
    # Responses are sent before they are stored.
    await eventually(lambda: len(kept(data_dir)) >= rendered)
    assert len(kept(data_dir)) == rendered
    shown = f"{rendered} rendered, {refused} refused"
    record(Figure(4, "damaged pictures asked for", len(ids), 0, shown))


async def test_a_known_failure_is_answered_without_a_worker(
    data_dir: Path, launch: Launch, library: Library
) -> None:
    ids = plant(data_dir, {"corrupt": photo("corrupt-header.jpg").read_bytes()})
    server = await launch({"lifetimes": {"failure_s": 60}, "workers": {"count": 1}})
    async with server.client() as client:
        target = f"/serve/{ids['corrupt']}?w=64"
        assert (await client.get(target)).status == 422
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        assert (await client.get(target, timeout=aiohttp.ClientTimeout(2))).status == 422
        os.kill(worker, signal.SIGCONT)


async def _interrupted(server: Server, target: str, *, kills: int) -> bytes | None:
    """Return a response whose workers are killed while it streams; None if it was cut."""
    async with server.client() as client, client.get(target) as answer:
        assert answer.status == 200
        if "Content-Length" in answer.headers:
            return b""  # The response was complete before its first byte was sent.
        first = await answer.content.readany()
        rest = asyncio.create_task(answer.read())
        killed: set[int] = set()

        def killed_or_done() -> bool:
            killed.update(_killed_at_work(server))
            return len(killed) >= kills or rest.done()

        await eventually(killed_or_done)
        try:
            return first + await rest
        except aiohttp.ClientPayloadError:
            return None


def _killed_at_work(server: Server) -> set[int]:
    """Kill the workers that have a job's descriptors open; return their process ids."""
    killed = set()
    for worker in server.workers():
        with suppress(FileNotFoundError, ProcessLookupError):
            up = "Seccomp:\t2" in Path(f"/proc/{worker}/status").read_text()
            if up and len(list(Path(f"/proc/{worker}/fd").iterdir())) > IDLE_DESCRIPTORS:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
    return killed


@pytest.mark.drill
async def test_a_response_whose_worker_dies_is_aborted_and_not_stored(
    data_dir: Path, launch: Launch, library: Library, record: Record
) -> None:
    """The connection is closed, so no client takes the part for the whole; a retry succeeds."""
    ids = plant(data_dir, copies(data_dir, library))
    server = await launch({"workers": {"count": 1}})
    async with server.client() as client:
        whole = await (await client.get(f"/serve/{library.ids['large']}{ZOOM}")).read()
    aborted = 0
    for media_id in ids.values():
        body = await _interrupted(server, f"/serve/{media_id}{ZOOM}", kills=1)
        # Whole before the kill, or aborted: never a part of the image.
        assert body in (None, b"", whole)
        if body is not None:
            continue
        aborted += 1
        assert not [path for path in kept(data_dir) if f"/{media_id}/" in str(path)]
        async with server.client() as client, client.get(f"/serve/{media_id}{ZOOM}") as answer:
            assert (answer.status, await answer.read()) == (200, whole)
    record(Figure(4, "responses whose worker was killed half way", aborted, 0, "all aborted"))


ZOOM = "?size=zoom&format=jpeg"


def copies(data_dir: Path, library: Library) -> dict[str, bytes]:
    """Copy the library's image of noise, whose renditions are long, into several files."""
    files = [path for path in (data_dir / "originals").rglob("*") if path.is_file()]
    large = max(files, key=lambda path: path.stat().st_size).read_bytes()
    return {f"copy {at}": large + b"%d" % at for at in range(5)}
