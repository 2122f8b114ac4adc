"""Workers with other decoders: started by the first job that needs them, ended when idle."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from proxy.domain.errors import RenderFault, UndecodableSource, UnsupportedSource
from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Geometry
from proxy.domain.worker_protocol import ProbeJob, RenderOutput, RenditionSet
from proxy.rendering.pool.on_demand import OnDemandPool
from proxy.rendering.pool.pool import DECODERS, WorkerPool
from proxy.settings import LimitSettings, WorkerSettings
from tests.support.memory_files import memory_file
from tests.support.photos import case

LIMITS = LimitSettings().to_limits()
SETTINGS = WorkerSettings.model_validate({"count": 1})


def pool_of(settings: WorkerSettings = SETTINGS, **options: Any) -> WorkerPool:
    return WorkerPool(settings, source_types=LIMITS.source_types, max_output_bytes=10**8, **options)


def saved(fmt: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "teal").save(buffer, fmt)
    return buffer.getvalue()


@pytest_asyncio.fixture
async def decoders() -> AsyncIterator[WorkerPool]:
    pool = pool_of(extra=DECODERS)
    yield pool
    await pool.aclose()


@pytest_asyncio.fixture
async def pool(decoders: WorkerPool) -> AsyncIterator[WorkerPool]:
    """A pool that passes jobs on."""
    plain = pool_of()
    plain.pass_on_to(OnDemandPool(decoders, idle_s=3600))
    async with plain:
        yield plain


async def test_no_process_is_started_for_images_that_libvips_decodes(
    pool: WorkerPool, decoders: WorkerPool
) -> None:
    with memory_file(saved("PNG")) as source:
        assert (await pool.run(ProbeJob(LIMITS), source)).source_type == "png"
    assert decoders.statistics()["jobs"] == 0
    assert not decoders.pids


@pytest.mark.parametrize("fmt", ["BMP", "ICO", "JPEG2000"])
async def test_the_first_job_starts_the_decoders(
    pool: WorkerPool, decoders: WorkerPool, fmt: str
) -> None:
    assert not decoders.pids
    with memory_file(saved(fmt)) as source:
        found = await pool.run(ProbeJob(LIMITS, strict=True), source)
    assert found.source_type == {"BMP": "bmp", "ICO": "ico", "JPEG2000": "jp2"}[fmt]
    assert decoders.pids
    # It was passed on, not repeated.
    assert pool.statistics()["jobs"] == 1


async def test_a_rendition_comes_from_the_decoders(pool: WorkerPool) -> None:
    profile = EncoderProfile(Format.JPEG, (("Q", 90),))
    job = RenditionSet(LIMITS, (RenderOutput(Geometry(16, 12, 16, 12), profile),))
    sent = bytearray()
    with memory_file(saved("BMP")) as source:
        await pool.run(job, source, sent.extend)
    assert Image.open(io.BytesIO(sent)).size == (16, 12)


async def test_an_animated_avif_is_decoded_in_the_sandbox(pool: WorkerPool) -> None:
    with memory_file(case("N08-anim.avif").read_bytes()) as source:
        assert (await pool.run(ProbeJob(LIMITS, strict=True), source)).pages == 5


async def test_a_jpeg_xl_is_decoded_in_the_sandbox(pool: WorkerPool) -> None:
    encoder = pytest.importorskip("pyjpegxl")
    content = encoder.encode(bytes(16 * 16 * 3), 16, 16, num_channels=3)
    with memory_file(content) as source:
        assert (await pool.run(ProbeJob(LIMITS, strict=True), source)).source_type == "jxl"


async def test_the_decoders_are_confined_as_other_workers(
    pool: WorkerPool, decoders: WorkerPool
) -> None:
    with memory_file(saved("BMP")) as source:
        await pool.run(ProbeJob(LIMITS), source)
    assert dict(decoders.hello.sandbox) == dict(pool.hello.sandbox)


async def test_a_damaged_file_costs_no_worker(pool: WorkerPool, decoders: WorkerPool) -> None:
    with memory_file(saved("BMP")[:100]) as source:
        with pytest.raises(UndecodableSource):
            await pool.run(ProbeJob(LIMITS, strict=True), source)
        first = decoders.pids
        with pytest.raises(UndecodableSource):
            await pool.run(ProbeJob(LIMITS, strict=True), source)
    assert decoders.pids == first


async def test_concurrent_jobs_start_them_once(pool: WorkerPool, decoders: WorkerPool) -> None:
    with memory_file(saved("BMP")) as source:
        jobs = [pool.run(ProbeJob(LIMITS), source) for _ in range(5)]
        found = await asyncio.gather(*jobs)
    assert len(found) == 5
    assert len(decoders.pids) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be told not to become another user")
async def test_decoders_that_do_not_start_are_a_fault_of_the_server() -> None:
    settings = WorkerSettings.model_validate({"count": 1, "uid": 0, "require_sandbox": True})
    plain = pool_of()
    plain.pass_on_to(OnDemandPool(pool_of(settings, extra=DECODERS), idle_s=3600))
    async with plain:
        with memory_file(saved("BMP")) as source, pytest.raises(RenderFault, match="workers"):
            await plain.run(ProbeJob(LIMITS), source)


async def test_a_pool_without_decoders_refuses_the_type() -> None:
    async with pool_of() as plain:
        with memory_file(saved("BMP")) as source, pytest.raises(UnsupportedSource):
            await plain.run(ProbeJob(LIMITS), source)


async def test_they_end_with_the_pool(decoders: WorkerPool) -> None:
    plain = pool_of()
    plain.pass_on_to(OnDemandPool(decoders, idle_s=3600))
    async with plain:
        with memory_file(saved("BMP")) as source:
            await plain.run(ProbeJob(LIMITS), source)
        assert decoders.pids
    assert not decoders.pids
