"""Row 5: workers that crash, hang or use too much memory cost one job, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import aiohttp
import pytest

from tests.benchmarks.processes import peak_bytes
from tests.faults.conftest import Launch
from tests.faults.planting import plant
from tests.faults.server import ended, until_ended
from tests.faults.table import Figure, Record
from tests.rendering.worker.imaging import crafted
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
UNCACHED = {"memory_max_bytes": 0}


async def body_of(client: aiohttp.ClientSession, target: str) -> bytes:
    """Return the bytes of an image."""
    async with client.get(target) as answer:
        body = await answer.read()
        assert answer.status == 200, body
        return body


def delete_renditions(data_dir: Path) -> None:
    """Delete all renditions, so that the next requests render."""
    for path in (data_dir / "renditions").rglob("*.webp"):
        path.unlink(missing_ok=True)


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a worker with SIGSTOP, so that it hangs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.drill
async def test_randomly_killed_workers_cost_no_response(
    launch: Launch, library: Library, data_dir: Path, record: Record
) -> None:
    """Every response is correct although workers die: a job is tried once more."""
    server = await launch({"renditions": UNCACHED})
    targets = [f"/serve/{library.ids['photo']}?w={width}&format=webp" for width in (256, 384, 640)]
    restarts = []
    async with server.client() as client:
        bodies = [await body_of(client, target) for target in targets]
        for turn in range(30):
            delete_renditions(data_dir)
            asked = [asyncio.create_task(body_of(client, target)) for target in targets]
            # The kill comes at a different moment of the render in each round.
            await asyncio.sleep(0.003 * (turn % 10))
            victim = server.workers()[turn % 2]
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            assert await asyncio.gather(*asked) == bodies
            await until_ended([victim])
            await server.until_workers(2)
            restarts.append(1000 * (time.monotonic() - began))
    assert await server.metric("smartserve_worker_restarts_total") == len(restarts)
    shown = f"{3 * len(restarts)} answers right, process back in {median(restarts):.0f} ms"
    record(Figure(5, "a worker killed while pictures are asked for", len(restarts), 0, shown))


async def test_a_hanging_worker_is_killed_at_its_deadline_and_another_does_the_job(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch({"workers": {"count": 1, "deadline_s": 1}})
    (hanging,) = server.workers()
    async with server.client() as client:
        with paused(hanging):
            await body_of(client, f"/serve/{library.ids['photo']}?w=256&format=webp")
            assert ended(hanging)
    assert await server.metric("smartserve_worker_restarts_total", reason="deadline") == 1
    record(Figure(5, "a worker hanging in the middle of a job", 1, 0, "killed at its deadline"))


async def test_others_are_served_while_a_worker_hangs(launch: Launch, library: Library) -> None:
    server = await launch({"workers": {"count": 2, "deadline_s": 3}})
    async with server.client() as client:
        target = f"/serve/{library.ids['photo']}?w="
        await body_of(client, f"{target}64")
        with paused(server.workers()[0]):
            asked = [asyncio.create_task(body_of(client, f"{target}{w}")) for w in (96, 128, 256)]
            done, _ = await asyncio.wait(asked, timeout=2)
            assert len(done) >= 2, "the other worker goes on"
            assert await body_of(client, f"{target}64")
            await asyncio.gather(*asked)


@pytest.mark.drill
async def test_an_image_that_kills_two_workers_is_quarantined_for_a_time(
    launch: Launch, library: Library, record: Record
) -> None:
    sections = {"workers": {"count": 1, "quarantine_s": 3}, "renditions": UNCACHED}
    server = await launch(sections)
    killer = f"/serve/{library.ids['large']}?size=zoom&format=webp"
    other = f"/serve/{library.ids['photo']}?w=64&format=webp"
    killed = 0
    async with server.client() as client:
        await body_of(client, other)
        asked = asyncio.create_task(client.get(killer))
        while not asked.done():
            for worker in server.workers():
                if await server.metric("smartserve_renders_in_flight"):
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                        killed += 1
            await asyncio.sleep(0.02)
        refusal = await asked
        assert refusal.status == 422
        assert "made its workers crash" in (await refusal.json(content_type=None))["detail"]
        crashes = await server.metric("smartserve_worker_restarts_total", reason="crash")
        await server.until_workers(1)
        for _ in range(50):
            assert (await client.get(killer)).status == 422
        assert await server.metric("smartserve_worker_restarts_total", reason="crash") == crashes
        assert await body_of(client, other)

        async def served_again() -> bool:
            return (await client.get(killer)).status == 200

        await eventually(served_again, interval_s=0.2)
    record(Figure(5, "requests for a picture that killed two workers", 51, 0, "422, then served"))


async def test_an_image_that_needs_too_much_memory_costs_only_its_own_response(
    launch: Launch, library: Library, data_dir: Path, record: Record
) -> None:
    """An image within all limits, but interlaced: its decoder needs all of it in memory."""
    greedy = {
        f"greedy {at}": crafted.png(8_000, 8_000, depth=8, colour=6, interlace=1) + bytes([at])
        for at in range(5)
    }
    ids = plant(data_dir, greedy)
    server = await launch({"workers": {"count": 1, "max_memory_bytes": 256 * MIB}})
    async with server.client() as client:
        for media_id in ids.values():
            async with client.get(f"/serve/{media_id}?w=64") as answer:
                assert answer.status == 422, await answer.text()
            assert await body_of(client, f"/serve/{library.ids['photo']}?w=64&v={media_id}")
    assert peak_bytes(server.workers()[0]) < 256 * MIB
    record(Figure(5, "pictures that want more memory than a worker has", len(ids), 0))


async def test_workers_are_replaced_after_a_number_of_jobs_without_an_error(
    launch: Launch, library: Library
) -> None:
    server = await launch({"workers": {"count": 2, "max_jobs": 3}})
    async with server.client() as client:
        # Two images at once, for both workers. Sizes of one image that wait together are one job.
        images = [f"/serve/{library.ids[name]}?format=webp&w=" for name in ("photo", "badge")]
        for width in (32, 48, 64, 96, 128, 192, 256):
            await asyncio.gather(*[body_of(client, f"{image}{width}") for image in images])

    async def two_recycled() -> bool:
        name = "smartserve_worker_restarts_total"
        return await server.metric(name, reason="recycled") >= 2

    # A worker is replaced after its last response.
    await eventually(two_recycled, interval_s=0.2)
    assert await server.metric("smartserve_worker_restarts_total", reason="crash") == 0


async def test_no_worker_outlives_its_server_even_if_it_hangs(
    launch: Launch, library: Library, record: Record
) -> None:
    """The kernel kills a worker with its parent: a hanging one would not see a closed socket."""
    server = await launch({"workers": {"count": 2}})
    await server.until_workers_ready(2)
    workers = server.workers()
    with paused(workers[0]):
        await server.kill()
        await until_ended(workers)
    record(Figure(5, "a server killed whose worker hangs", 1, 0, "no worker left"))


async def test_other_decoders_start_with_their_first_image_in_a_process_of_their_own(
    data_dir: Path, launch: Launch, library: Library
) -> None:
    bitmap = struct.pack("<2sIHHI", b"BM", 70, 0, 0, 54)
    bitmap += struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 24, 0, 16, 0, 0, 0, 0) + bytes(16)
    (media_id,) = plant(data_dir, {"a BMP": bitmap}).values()
    server = await launch({"workers": {"count": 1}})
    (worker,) = server.workers()
    async with server.client() as client:
        for one in library.ids.values():
            assert (await client.get(f"/serve/{one}?size=thumbnail")).status == 200
        assert server.workers() == [worker]
        assert (await client.get(f"/serve/{media_id}?size=thumbnail")).status == 200
    (other,) = set(server.workers()) - {worker}
    # Their libraries are no part of the memory of those that render everything else.
    # Only root can read it: workers are not dumpable.
    pids = (worker, other) if os.geteuid() == 0 else ()
    loaded = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]
    if loaded and find_spec("pyjpegxl"):
        assert ["pyjpegxl" in one for one in loaded] == [False, True]
    assert await server.metric("smartserve_worker_restarts_total") == 0
