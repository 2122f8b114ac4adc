"""Failure cache, admission and file access around a job."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import QueueFull, SourceChanged, SourceMissing, UndecodableSource
from proxy.domain.formats import Format
from proxy.domain.media import MediaFacts, ProbeResult
from proxy.domain.variant import EncoderProfile, Geometry
from proxy.domain.worker_protocol import (
    AnalyseJob,
    Limits,
    ProbeJob,
    RenderOutput,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.pool.admission import Admission, FailureCache
from proxy.serving.job_dispatch import JobDispatcher, JobResult, service_kind
from proxy.settings import LimitSettings, StorageSettings, WorkerSettings
from proxy.storage.originals.local_store import LocalOriginals, OpenSource
from tests.support.waiting import eventually
from tests.web.plans import FACTS as OTHER_FACTS
from tests.web.plans import MEDIA

BODY = b"not decoded here"
LIMITS: Limits = LimitSettings().to_limits()
JOB = RenditionSet(LIMITS, (), framed=True)
FILED = replace(MEDIA, bulk_path="image")
FACTS = replace(OTHER_FACTS, byte_size=len(BODY))


class Pool:
    """A pool without processes, whose jobs fail or write some bytes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.jobs = 0
        self.error = error
        self.on_start: Callable[[], object] = lambda: None
        self.result: Any = RenditionSetResult(())

    async def run(
        self,
        _job: object,
        _source: int,
        sink: Callable[[bytes], None],
        *,
        on_start: Callable[[], None],
        **_: Any,
    ) -> RenditionSetResult:
        self.jobs += 1
        on_start()
        self.on_start()
        if self.error is not None:
            raise self.error
        sink(b"some ")
        sink(b"bytes")
        return self.result  # type: ignore[no-any-return]


def dispatcher(root: Path, pool: Pool, admission: Admission | None = None) -> JobDispatcher:
    (root / "image").write_bytes(BODY)
    return JobDispatcher(
        sources=LocalOriginals(root, StorageSettings()),
        pool=pool,  # type: ignore[arg-type]
        admission=admission or Admission(WorkerSettings(count=1)),
        failures=FailureCache(failure_s=10, quarantine_s=60),
    )


async def run(jobs: JobDispatcher, **options: Any) -> JobResult[RenditionSetResult]:
    return await jobs.run(FILED, JOB, facts=FACTS, **options)


async def test_an_image_that_failed_is_refused_without_another_job(tmp_path: Path) -> None:
    pool = Pool(UndecodableSource("cut off"))
    jobs = dispatcher(tmp_path, pool)
    for _ in range(3):
        with pytest.raises(UndecodableSource, match="cut off"):
            await run(jobs)
    assert pool.jobs == 1
    with pytest.raises(UndecodableSource):
        jobs.check(FILED)


async def test_the_same_image_after_a_change_of_its_row_is_tried_again(tmp_path: Path) -> None:
    pool = Pool(UndecodableSource("cut off"))
    jobs = dispatcher(tmp_path, pool)
    with pytest.raises(UndecodableSource):
        await run(jobs)
    later = replace(FILED, updated_at=FILED.updated_at.replace(year=2999))
    jobs.check(later)


async def test_a_source_of_another_size_is_not_rendered(tmp_path: Path) -> None:
    pool = Pool()
    with pytest.raises(SourceChanged):
        await dispatcher(tmp_path, pool).run(FILED, JOB, facts=replace(FACTS, byte_size=1))
    assert pool.jobs == 0


@pytest.mark.parametrize(
    ("content_hash", "rendered"), [("", True), (FACTS.content_hash, True), ("cd" * 32, False)]
)
async def test_a_source_of_another_content_is_not_rendered(
    tmp_path: Path, content_hash: str, *, rendered: bool
) -> None:
    """A file on another server may be replaced by one of the same size."""

    class Fetched(LocalOriginals):
        async def open(self, path: str) -> OpenSource:
            return replace(await super().open(path), content_hash=content_hash)

    jobs = dispatcher(tmp_path, pool := Pool())
    jobs._sources = Fetched(tmp_path, StorageSettings())
    with nullcontext() if rendered else pytest.raises(SourceChanged):
        await run(jobs)
    assert pool.jobs == rendered


async def test_a_medium_without_a_file_is_missing(tmp_path: Path) -> None:
    pool = Pool()
    jobs = dispatcher(tmp_path, pool)
    (tmp_path / "image").unlink()
    with pytest.raises(SourceMissing):
        await run(jobs)
    assert pool.jobs == 0


async def test_a_full_queue_refuses_before_the_file_is_opened(tmp_path: Path) -> None:
    admission = Admission(WorkerSettings(count=1, max_queue=0))
    pool = Pool()
    jobs = dispatcher(tmp_path, pool, admission)
    (tmp_path / "image").unlink()
    async with admission.enter():
        with pytest.raises(QueueFull):
            await run(jobs)


async def test_a_job_that_waits_for_admission_holds_no_source(tmp_path: Path) -> None:
    """A source may be a copy of 100 MB in memory: 64 waiting jobs would hold 6.4 GB."""

    class Blocked(Pool):
        def __init__(self) -> None:
            super().__init__()
            self.free = asyncio.Event()

        async def run(self, *arguments: Any, **options: Any) -> RenditionSetResult:
            self.jobs += 1
            await self.free.wait()
            return RenditionSetResult(())

    pool = Blocked()
    admission = Admission(WorkerSettings(count=1))
    jobs = dispatcher(tmp_path, pool, admission)
    running = [asyncio.create_task(run(jobs)) for _ in range(64)]
    # One runs, and one is prepared for the worker.
    await eventually(lambda: pool.jobs == 2 and admission.statistics()["waiting"] == 62)
    opened = [one for one in os.scandir("/proc/self/fd") if _points_to(one.path, tmp_path)]
    assert len(opened) == 2
    pool.free.set()
    await asyncio.gather(*running)
    assert jobs._sources.statistics()["opened"] == 64


def _points_to(link: str, folder: Path) -> bool:
    with suppress(OSError):
        return Path(link).readlink().is_relative_to(folder)
    return False


async def test_a_copy_is_given_back_when_its_job_has_ended(tmp_path: Path) -> None:
    released: list[int] = []

    class Copies(LocalOriginals):
        async def open(self, path: str) -> OpenSource:
            source = await super().open(path)
            return replace(source, release=lambda: released.append(source.descriptor))

    jobs = dispatcher(tmp_path, Pool())
    jobs._sources = Copies(tmp_path, StorageSettings())
    await run(jobs)
    with pytest.raises(SourceChanged):
        await jobs.run(FILED, ProbeJob(LIMITS), facts=replace(FACTS, byte_size=1))
    jobs._pool = Pool(UndecodableSource("cut off"))  # type: ignore[assignment]
    with pytest.raises(UndecodableSource):
        await run(jobs)
    assert len(released) == 3


async def test_a_source_of_the_same_size_and_another_version_is_not_rendered(
    tmp_path: Path,
) -> None:
    class Versions(LocalOriginals):
        version = "a"

        async def open(self, path: str) -> OpenSource:
            return replace(await super().open(path), version=self.version)

    pool = Pool()
    jobs = dispatcher(tmp_path, pool)
    sources = jobs._sources = Versions(tmp_path, StorageSettings())
    facts = replace(FACTS, source_path="image")
    known = replace(MEDIA, facts=facts, bulk_path="image")
    await jobs.run(known, JOB, facts=facts)
    sources.version = "b"
    for _ in range(2):
        with pytest.raises(SourceChanged):
            await jobs.run(known, JOB, facts=facts)
    # Uploads and finals share what is known.
    with pytest.raises(SourceChanged):
        await jobs.counted_apart().run(known, JOB, facts=facts)
    # The facts are read again: the content is the same, or another one.
    for content in (FACTS.content_hash, "f" * 64):
        pool.result = ProbeResult(**{**_probed(FACTS), "content_hash": content})
        await jobs.run(known, ProbeJob(LIMITS))
        pool.result = RenditionSetResult(())
        other = replace(known, facts=replace(facts, content_hash=content))
        await jobs.run(other, JOB, facts=facts)
    # A plan that was made by the old facts must not get the new bytes.
    with pytest.raises(SourceChanged):
        await jobs.run(known, JOB, facts=facts)
    # Another server has read the facts again.
    sources.version = "c"
    await jobs.run(known, JOB, facts=facts)


def _probed(facts: MediaFacts) -> dict[str, Any]:
    return {one.name: getattr(facts, one.name) for one in fields(ProbeResult)}


async def test_the_size_of_a_source_is_read_without_its_bytes(tmp_path: Path) -> None:
    class Sizes(LocalOriginals):
        async def open(self, path: str) -> OpenSource:
            raise AssertionError(path)

        async def byte_size(self, path: str) -> int:
            return len(BODY)

    jobs = dispatcher(tmp_path, Pool())
    jobs._sources = Sizes(tmp_path, StorageSettings())
    assert await jobs.available(FILED, byte_size=len(BODY))
    assert not await jobs.available(FILED, byte_size=1)


async def test_the_start_in_a_worker_is_reported_and_counted(tmp_path: Path) -> None:
    pool = Pool()
    waits: list[float] = []
    busy: list[float] = []
    jobs = dispatcher(tmp_path, pool)
    pool.on_start = lambda: busy.append(jobs.statistics()["busy"])
    done = await run(jobs, on_start=waits.append)
    assert waits == [done.queue_s]
    assert done.work_s >= 0
    assert busy == [1]
    assert jobs.statistics() == {"busy": 0}


async def test_a_repeated_job_occupies_one_worker_until_it_fails(tmp_path: Path) -> None:
    class Repeating(Pool):
        async def run(self, *arguments: Any, **options: Any) -> RenditionSetResult:
            options["on_start"]()
            return await super().run(*arguments, **options)

    busy: list[float] = []
    pool = Repeating(UndecodableSource("cut off"))
    jobs = dispatcher(tmp_path, pool)
    pool.on_start = lambda: busy.append(jobs.statistics()["busy"])
    with pytest.raises(UndecodableSource):
        await run(jobs)
    assert busy == [1]
    assert jobs.statistics() == {"busy": 0}


async def test_a_job_that_waits_occupies_no_worker(tmp_path: Path) -> None:
    admission = Admission(WorkerSettings(count=1, max_queue=0))
    jobs = dispatcher(tmp_path, Pool(), admission)
    async with admission.enter():
        assert jobs.statistics() == {"busy": 0}


async def test_another_kind_of_work_is_counted_apart(tmp_path: Path) -> None:
    pool = Pool()
    busy: list[float] = []
    jobs = dispatcher(tmp_path, pool)
    other = jobs.counted_apart()
    pool.on_start = lambda: busy.append(jobs.statistics()["busy"])
    await run(other)
    assert busy == [0]


async def test_a_whole_rendition_is_all_its_bytes(tmp_path: Path) -> None:
    jobs = dispatcher(tmp_path, Pool())
    assert await jobs.encoded(FILED, JOB, facts=FACTS) == b"some bytes"


async def test_the_service_time_of_a_job_is_learned_by_its_kind(tmp_path: Path) -> None:
    admission = Admission(WorkerSettings(count=1))
    learned: list[tuple[str, float]] = []
    admission.learn = lambda *given: learned.append(given)  # type: ignore[method-assign]
    done = await run(dispatcher(tmp_path, Pool(), admission))
    assert learned == [(service_kind(JOB), done.work_s)]


def test_jobs_with_the_same_encoding_and_about_as_many_pixels_are_of_one_kind() -> None:
    def kind(side: int, fmt: Format = Format.WEBP) -> str:
        geometry = Geometry(side, side, side, side)
        output = RenderOutput(geometry, EncoderProfile(fmt, (("Q", 80),)))
        return service_kind(RenditionSet(LIMITS, (output,)))

    assert kind(300) == kind(310)
    assert len({kind(300), kind(1200), kind(300, Format.AVIF)}) == 3
    assert service_kind(ProbeJob(LIMITS)) != service_kind(AnalyseJob(LIMITS))
