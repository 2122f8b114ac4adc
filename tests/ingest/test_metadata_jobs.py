"""Metadata jobs: each ends, with a result or a reason, and no file of one stays behind."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from proxy.domain.errors import (
    CommitUncertain,
    DatabaseUnavailable,
    ExtractionTimeout,
    JobQueueFull,
    QueueFull,
    RowRejected,
    UnknownImageFormat,
    UploadStorageError,
)
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.ingest.callbacks import Callbacks
from proxy.ingest.job_files import JobFiles
from proxy.ingest.metadata_jobs import COUNTS, JobRequest, MetadataJobs, MetadataJobWorker
from proxy.ingest.worker_loop import running_worker
from proxy.metadata.extraction import Extraction, ExtractOptions, Progress, Tier
from proxy.metadata.extractor import Extractor
from proxy.metadata.service import MetadataService
from proxy.metadata.temp_folder import ReceivedFile, TempFolder
from proxy.settings import DatabaseSettings, MetadataSettings, StorageSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.metadata_jobs import JobStatus, MetadataJobTable, StoredJob
from proxy.storage.database.schema import upgrade
from proxy.storage.database.transactions import SqlDatabase
from proxy.storage.originals.local_store import LocalOriginals, OpenSource
from tests.ingest.test_callbacks import receiving
from tests.support.waiting import eventually

JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
REQUEST = JobRequest("user:4", "a.jpg", Tier.ENTERPRISE)
LONG_S = 600.0
DATABASE = DatabaseSettings(query_timeout_s=60, connect_timeout_s=60)


@dataclass
class Engines:
    """Stands for the engines: returns the size of each file, after ``work``."""

    folder: TempFolder
    work: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)
    missing: str = ""
    running: int = 0
    most: int = 0
    options: list[ExtractOptions] = field(default_factory=list)

    def new_file(self, *, max_bytes: int) -> ReceivedFile:
        return self.folder.new_file(max_bytes=max_bytes)

    def variant(self, options: ExtractOptions) -> str:
        return f"{options.advanced}"

    async def extract(
        self, file: ReceivedFile, options: ExtractOptions, *, progress: Progress
    ) -> Extraction:
        self.options.append(options)
        self.running += 1
        self.most = max(self.most, self.running)
        progress(50, "engine")
        try:
            await self.work()
        finally:
            self.running -= 1
        metadata = {"bytes": file.byte_size, "groups": {}, "text": [], "c2pa": None}
        return Extraction(metadata, {}, {"fallback_extraction": False})

    def fails(self, *errors: Exception) -> None:
        """Let the next extractions raise these errors."""
        left = list(errors)

        async def fail() -> None:
            if left:
                raise left.pop(0)

        self.work = fail


@dataclass
class Bench:
    """Jobs over a new database, and as many workers as a test wants."""

    folder: Path
    engines: Engines
    jobs: MetadataJobs
    media: SqlMediaRepository
    originals: LocalOriginals
    extractor: Extractor

    async def add(self, request: JobRequest = REQUEST, content: bytes = JPEG) -> str:
        with self.engines.new_file(max_bytes=10**6) as file:
            await file.write(content)
            await file.finish()
            return await self.jobs.add(request, file.descriptor, file.byte_size)

    @asynccontextmanager
    async def running(self, jobs: MetadataJobs | None = None) -> AsyncIterator[MetadataJobWorker]:
        """Run a worker, without pauses between attempts."""
        jobs = jobs or self.jobs
        worker = MetadataJobWorker(
            jobs,
            self.extractor,
            media=self.media,
            originals=self.originals,
            jitter=lambda _low, _high: 0.0,
        )
        jobs.on_job = worker.wake
        async with running_worker(worker, drain_s=0):
            yield worker

    async def ended(self, job_id: str) -> StoredJob:
        """Run a worker until the job has ended, and its file is gone."""
        async with self.running():
            return await self.seen(job_id, "completed", "failed")

    async def seen(self, job_id: str, *statuses: str) -> StoredJob:
        """Return the job as soon as it has one of these statuses."""

        async def reached() -> bool:
            found = await self.jobs.table.find([job_id])
            return job_id in found and found[job_id].status in statuses

        await eventually(reached, timeout_s=120)
        if statuses[0] == "completed":
            await eventually(lambda: job_id not in self.files(), timeout_s=120)
        return (await self.jobs.table.find([job_id]))[job_id]

    async def result(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.jobs.table.results([job_id]))[job_id])
        return found

    def files(self) -> list[str]:
        """The files of jobs."""
        folder = self.folder / "jobs"
        names = [one.name for one in folder.iterdir()] if folder.exists() else []
        return [name for name in names if name != "folder-id"]

    async def original(self, content: bytes = JPEG) -> Media:
        """Import an image."""
        (self.folder / "photo.jpg").write_bytes(content)
        await self.originals.add("bulk/photo.jpg", self.folder / "photo.jpg")
        new = NewMedia(4, DataType.PRODUCT, "Käse.jpg", "bulk/photo.jpg")
        facts = MediaFacts(
            content_hash="ab" * 32,
            byte_size=len(content),
            source_type="jpeg",
            width=640,
            height=480,
            has_alpha=False,
            pages=1,
            flat_background=False,
            focus=None,
            source_path="bulk/photo.jpg",
        )
        media_id = await self.media.insert(new, facts)
        found = await self.media.find(media_id)
        assert found is not None
        return found


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    # So that each step follows from the one before, and none from the next poll.
    monkeypatch.setattr("proxy.ingest.metadata_jobs._POLL_S", LONG_S)
    url = f"sqlite+aiosqlite:///{tmp_path / 'media.db'}"
    await upgrade(url, DATABASE)
    settings = MetadataSettings(temp_root=str(tmp_path / "metaextract"), max_jobs_per_user=5)
    (tmp_path / "originals").mkdir()
    storage = StorageSettings(open_timeout_s=60)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            SqlDatabase(url, DATABASE, isolation="READ COMMITTED")
        )
        engines = Engines(stack.enter_context(TempFolder(tmp_path / "metaextract")))

        @asynccontextmanager
        async def opened() -> AsyncIterator[MetadataService]:
            yield cast("MetadataService", engines)

        table = MetadataJobTable(database, lease_s=LONG_S, max_attempts=3, retention_s=LONG_S)
        jobs = MetadataJobs(
            table=table,
            files=JobFiles(tmp_path / "jobs", storage),
            callbacks=Callbacks((), "k" * 32),
            settings=settings,
        )
        media = await stack.enter_async_context(SqlMediaRepository(url, DATABASE))
        originals = LocalOriginals(tmp_path / "originals", storage)
        extractor = Extractor(settings, opened, processes=8)
        stack.push_async_callback(extractor.aclose)
        yield Bench(tmp_path, engines, jobs, media, originals, extractor)


async def test_a_job_ends_with_the_answer_of_an_extraction_and_its_file_is_deleted(
    bench: Bench,
) -> None:
    request = JobRequest("user:4", "a.jpg", Tier.FORENSIC, "image/png", advanced=True)
    job_id = await bench.add(request)
    assert bench.files() == [job_id]
    job = await bench.ended(job_id)
    assert (job.status, job.progress, job.attempts) == (JobStatus.COMPLETED, 100, 1)
    result = await bench.result(job_id)
    assert result["metadata"]["bytes"] == len(JPEG)
    assert (result["success"], result["tier"], result["filesize"]) == (True, "forensic", len(JPEG))
    options = ExtractOptions("a.jpg", "image/png", advanced=True, tier=Tier.FORENSIC)
    assert bench.engines.options == [options]
    assert [*bench.engines.folder.path.iterdir()] == []


async def test_a_job_of_a_stored_image_reads_its_original(bench: Bench) -> None:
    media = await bench.original()
    job_id = await bench.jobs.add_original(replace(REQUEST, filename="Käse.jpg"), media)
    await bench.ended(job_id)
    result = await bench.result(job_id)
    assert (result["filename"], result["filesize"]) == ("Käse.jpg", len(JPEG))
    assert (bench.folder / "originals/bulk/photo.jpg").exists()


async def test_a_job_whose_original_is_gone_fails_with_the_reason(bench: Bench) -> None:
    media = await bench.original()
    job_id = await bench.jobs.add_original(REQUEST, media)
    await bench.originals.remove("bulk/photo.jpg")
    job = await bench.ended(job_id)
    assert (job.status, job.code, job.attempts) == (JobStatus.FAILED, "NOT_FOUND", 1)


async def test_a_job_is_repeated_after_a_read_error_of_the_storage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    media, opened = await bench.original(), bench.originals.open
    # A descriptor that cannot be read from, as of a disk that fails.
    file = bench.folder / "originals/bulk/photo.jpg"
    broken = [OpenSource(os.open(file, os.O_WRONLY), len(JPEG))]

    async def open_once_broken(path: str) -> OpenSource:
        return broken.pop() if broken else await opened(path)

    monkeypatch.setattr(bench.originals, "open", open_once_broken)
    job = await bench.ended(await bench.jobs.add_original(REQUEST, media))
    assert (job.status, job.attempts, job.error) == (JobStatus.COMPLETED, 2, None)


async def test_a_job_fails_after_three_attempts(bench: Bench) -> None:
    bench.engines.fails(*(ExtractionTimeout("It took too long.") for _ in range(3)))
    job = await bench.ended(await bench.add())
    assert (job.status, job.attempts) == (JobStatus.FAILED, 3)
    assert (job.error, job.code) == ("It took too long.", "TIMEOUT")
    assert bench.jobs.counts["jobs_retried"] == 2


async def test_an_attempt_that_fails_is_repeated(bench: Bench) -> None:
    bench.engines.fails(ExtractionTimeout("It took too long."))
    job = await bench.ended(await bench.add())
    assert (job.status, job.attempts, job.error) == (JobStatus.COMPLETED, 2, None)


async def test_a_file_that_will_never_be_readable_is_read_once(bench: Bench) -> None:
    bench.engines.fails(UnknownImageFormat("No image."))
    job = await bench.ended(await bench.add())
    assert (job.status, job.attempts, job.code) == (JobStatus.FAILED, 1, "INVALID_FILE_TYPE")


async def test_busy_engines_cost_a_job_no_attempt(bench: Bench) -> None:
    bench.engines.fails(*(QueueFull("busy") for _ in range(4)))
    job = await bench.ended(await bench.add())
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)
    assert bench.jobs.counts["jobs_deferred"] == 4


async def test_a_job_that_ended_all_its_workers_fails_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await bench.add()
    monkeypatch.setattr(bench.jobs.table, "_max_attempts", 0)
    job = await bench.ended(job_id)
    assert job.status == JobStatus.FAILED
    assert "ended during each attempt" in str(job.error)
    assert bench.engines.options == []


async def test_a_job_whose_file_is_missing_fails_with_the_reason(bench: Bench) -> None:
    job_id = await bench.add()
    (bench.folder / "jobs" / job_id).unlink()
    job = await bench.ended(job_id)
    assert "Send it again" in str(job.error)


async def test_as_many_jobs_run_at_once_as_the_settings_allow(bench: Bench) -> None:
    held = asyncio.Event()
    bench.engines.work = held.wait
    ids = [await bench.add(replace(REQUEST, owner=f"user:{number}")) for number in range(6)]
    async with bench.running():
        await eventually(lambda: bench.engines.running == 3, timeout_s=120)
        # Time in which others could begin, measured in queries as long as theirs.
        for _ in range(50):
            await bench.jobs.table.count_pending()
        held.set()
        for job_id in ids:
            await bench.seen(job_id, "completed", "failed")
    assert bench.engines.most == 3


async def test_a_job_that_is_added_later_does_not_wait_for_a_long_one(bench: Bench) -> None:
    held = asyncio.Event()
    bench.engines.work = held.wait
    long = await bench.add()
    async with bench.running():
        await eventually(lambda: bench.engines.running == 1, timeout_s=120)
        bench.engines.work = lambda: asyncio.sleep(0)
        await bench.seen(await bench.add(), "completed", "failed")
        seen = await bench.seen(long, "processing")
        assert seen.attempts == 1
        held.set()
        await bench.seen(long, "completed", "failed")


async def test_the_progress_of_a_running_job_is_visible(bench: Bench) -> None:
    bench.engines.work = asyncio.Event().wait
    job_id = await bench.add()

    async def halfway() -> bool:
        return (await bench.jobs.table.find([job_id]))[job_id].progress == 50

    async with bench.running():
        await eventually(halfway, timeout_s=120)


async def test_a_job_that_is_unfinished_at_the_end_is_run_by_another_worker(
    bench: Bench,
) -> None:
    bench.engines.work = asyncio.Event().wait
    job_id = await bench.add()
    async with bench.running():
        await eventually(lambda: bench.engines.running == 1, timeout_s=120)
    (job,) = (await bench.jobs.table.find([job_id])).values()
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)
    assert bench.files() == [job_id]
    bench.engines.work = lambda: asyncio.sleep(0)
    assert (await bench.ended(job_id)).attempts == 1


async def test_a_deleted_job_ends_and_its_file_is_gone(bench: Bench) -> None:
    bench.engines.work = asyncio.Event().wait
    job_id = await bench.add()
    async with bench.running():
        await eventually(lambda: bench.engines.running == 1, timeout_s=120)
        (job,) = (await bench.jobs.table.find([job_id])).values()
        await bench.jobs.delete(job)
        assert bench.files() == []
        # The worker notices that its lease is lost.
        await eventually(lambda: bench.engines.running == 0, timeout_s=120)
        bench.engines.work = lambda: asyncio.sleep(0)
        await bench.seen(await bench.add(), "completed", "failed")


async def test_servers_with_folders_of_their_own_leave_each_others_jobs(bench: Bench) -> None:
    elsewhere = replace(bench.jobs, files=JobFiles(bench.folder / "elsewhere", StorageSettings()))
    await elsewhere.files.folder_id()
    job_id = await bench.add()
    async with bench.running(elsewhere) as worker:
        queues = await worker._queues()
        assert await bench.jobs.table.due_in_s(queues) is None
        assert await bench.jobs.table.claim(queues[-1], "w") is None
    await bench.ended(job_id)


async def test_servers_that_share_a_folder_run_each_others_jobs(bench: Bench) -> None:
    shared = replace(bench.jobs, files=JobFiles(bench.folder / "jobs", StorageSettings()))
    job_id = await bench.add()
    async with bench.running(shared):
        await bench.seen(job_id, "completed", "failed")


async def test_nothing_is_created_before_the_first_job(bench: Bench) -> None:
    # The worker finds a connection. If it is cancelled while it connects, aiosqlite leaves closing
    # to the garbage collector, about which Python 3.13 warns.
    await bench.jobs.table.find(["0" * 32])
    async with bench.running() as worker:
        assert len(await worker._queues()) == 1
    assert not (bench.folder / "jobs").exists()


async def test_the_callback_has_the_metadata_and_is_sent_when_the_job_has_ended(
    bench: Bench,
) -> None:
    async with receiving() as receiver:
        bench.jobs.callbacks = receiver.callbacks
        job_id = await bench.add(replace(REQUEST, callback=receiver.url))
        bad = await bench.add(replace(REQUEST, callback=receiver.url), b"no image")
        async with bench.running():
            await eventually(lambda: len(receiver.received) == 2, timeout_s=120)
            await eventually(lambda: bench.jobs.counts["callbacks_sent"] == 2, timeout_s=120)
    bodies = {one["id"]: one for one in (json.loads(body) for _, body in receiver.received)}
    assert bodies[job_id]["status"] == "completed"
    assert bodies[job_id]["metadata"]["bytes"] == len(JPEG)
    assert set(bodies[bad]) == {"id", "status", "error"}
    assert bodies[bad]["status"] == "failed"


async def test_a_callback_is_tried_three_times_then_logged_and_the_job_stays_completed(
    bench: Bench,
) -> None:
    async with receiving() as receiver:
        receiver.status = 500
        bench.jobs.callbacks = receiver.callbacks
        job_id = await bench.add(replace(REQUEST, callback=receiver.url))
        with capture_logs() as logs:
            async with bench.running():
                await eventually(lambda: bench.jobs.counts["callbacks_failed"] == 1, timeout_s=120)
    assert len(receiver.received) == 3
    (job,) = (await bench.jobs.table.find([job_id])).values()
    assert (job.status, job.progress) == (JobStatus.COMPLETED, 100)
    failed = [one for one in logs if one["event"] == "metadata_callback_failed"]
    assert [one["last"] for one in failed] == [False, False, True]
    assert "500" in failed[-1]["reason"]
    assert receiver.url not in str(logs)


async def test_files_without_an_unfinished_job_are_swept_once_they_are_an_hour_old(
    bench: Bench,
) -> None:
    needed = await bench.add()
    old, young, foreign = "a" * 32, "b" * 32, "notes.txt"
    for name in (old, young, foreign):
        (bench.folder / "jobs" / name).write_bytes(b"x")
    for name in (needed, old, foreign):
        os.utime(bench.folder / "jobs" / name, (0, 0))
    await bench.jobs.prune()
    assert sorted(bench.files()) == sorted([needed, young, foreign])


async def test_a_user_with_too_many_jobs_is_refused_and_the_file_deleted(bench: Bench) -> None:
    ids = [await bench.add() for _ in range(5)]
    with pytest.raises(JobQueueFull):
        await bench.jobs.check_room(REQUEST)
    with pytest.raises(JobQueueFull):
        await bench.add()
    assert sorted(bench.files()) == sorted(ids)
    await bench.add(replace(REQUEST, limited=False))


async def test_a_folder_that_cannot_be_used_refuses_jobs_with_the_reason_in_the_log(
    bench: Bench,
) -> None:
    (bench.folder / "jobs").write_text("a file")
    with capture_logs() as logs, pytest.raises(UploadStorageError):
        await bench.add()
    assert any(one["event"] == "metadata_jobs_folder_unfit" for one in logs)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_job_whose_commit_is_uncertain_keeps_its_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, stored: bool
) -> None:
    add = bench.jobs.table.add

    async def uncertain(*arguments: Any) -> None:
        if stored:
            await add(*arguments)
        raise CommitUncertain("lost")

    monkeypatch.setattr(bench.jobs.table, "add", uncertain)
    if stored:
        job_id = await bench.add()
        assert bench.files() == [job_id]
    else:
        with pytest.raises(CommitUncertain):
            await bench.add()
        assert len(bench.files()) == 1


async def test_a_job_that_cannot_be_stored_leaves_no_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_arguments: Any) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(bench.jobs.table, "add", unavailable)
    with pytest.raises(DatabaseUnavailable):
        await bench.add()
    assert bench.files() == []


async def test_a_job_whose_result_the_database_rejects_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rejected(*_arguments: Any) -> None:
        raise RowRejected("The database rejected a value.", reason="too long")

    monkeypatch.setattr(bench.jobs.table, "complete", rejected)
    with capture_logs() as logs:
        job = await bench.ended(await bench.add())
    assert (job.status, job.error) == ("failed", "The database rejected a value.")
    assert job.attempts == bench.jobs.settings.job_attempts
    assert {one.get("cause") for one in logs if one["event"] == "metadata_job_rejected"} == {
        "too long"
    }


def test_all_statistics_are_present_before_the_first_job(bench: Bench) -> None:
    assert bench.jobs.statistics() == dict.fromkeys(("pending_jobs", *COUNTS), 0)
