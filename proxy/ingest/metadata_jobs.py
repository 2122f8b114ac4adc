"""Metadata jobs: extractions in the background, with results that are kept for a day."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from proxy.domain.errors import (
    CapacityError,
    CommitUncertain,
    DatabaseUnavailable,
    ExtractionFailed,
    JobQueueFull,
    LeaseLost,
    MediaNotFound,
    RowRejected,
    SmartserveError,
)
from proxy.domain.media import Media
from proxy.ingest.callbacks import Callbacks
from proxy.ingest.job_files import JobFiles
from proxy.ingest.worker_loop import new_worker_id, renewed
from proxy.metadata.extraction import ExtractOptions, Tier
from proxy.metadata.extractor import Extractor
from proxy.metadata.media_extraction import read_pieces
from proxy.runtime.deferred_json import dumps
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.settings import MetadataSettings
from proxy.storage.database import MediaRepository
from proxy.storage.database.metadata_jobs import (
    CALLBACKS,
    ORIGINALS,
    JobLimits,
    JobStatus,
    LeasedJob,
    MetadataJobTable,
    NewJob,
    StoredJob,
    new_job_id,
    queue_of,
)
from proxy.storage.originals import OriginalReader
from proxy.storage.originals.local_store import OpenSource

COUNTS = (
    *("jobs_completed", "jobs_failed", "jobs_retried", "jobs_taken_over", "jobs_deferred"),
    *("callbacks_sent", "callbacks_retried", "callbacks_failed"),
)
"""Counters of `MetadataJobs.statistics`."""

_BATCH = 500
_POLL_S = 5.0
"""Interval at which jobs of other servers are looked for; those of this one start at once."""
_MIN_REST_S = 0.5
"""Another worker may lease a job that is due: without a minimum the loop would spin."""
_COUNT_EVERY_S = 15.0
_RENEW_EVERY_S = 1.0
"""Each renewal stores the progress, too."""
_DEFERRED_S = 5.0
_REMEMBERED_S = 60.0
"""For this time the engines refuse a file that they could not read."""
_CALLBACKS_AT_ONCE = 2
_CALLBACK_ATTEMPTS = 3
_CALLBACK_BACKOFF_S = 5.0
_CLIENT_ERRORS = 500
"""Errors with a lower status are the file's: a further attempt would end in the same way."""
_ENDED = (
    "The server ended during each attempt; the file may have caused that."
    " Check the log of the server before the file is sent again."
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A request for a job: what is extracted, and for whom."""

    owner: str
    """Who may read and delete the job."""
    filename: str
    tier: Tier
    media_type: str = ""
    """As the client declared it; see `formats.declared_media_type`."""
    advanced: bool = False
    callback: str | None = None
    """Checked by `Callbacks.check`."""
    limited: bool = True
    """Whether the limit of each user applies."""

    def new_job(self, job_id: str, queue: str, size: int, media_id: int | None = None) -> NewJob:
        """Return the row of the job."""
        options = {
            "tier": self.tier.value,
            "advanced": self.advanced,
            "media_type": self.media_type,
        }
        name = self.filename[:255]
        return NewJob(job_id, self.owner, queue, media_id, name, size, options, self.callback)


@dataclass(kw_only=True)
class MetadataJobs:
    """Adds, finds and deletes jobs; `MetadataJobWorker` runs them."""

    table: MetadataJobTable
    files: JobFiles
    callbacks: Callbacks
    settings: MetadataSettings
    on_job: Callable[[], None] = lambda: None
    """Called after a job was added."""
    counts: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    """Jobs that wait or run, as last counted."""

    async def check_room(self, request: JobRequest) -> None:
        """Check that a job may be added.

        Call it before the file is received, which may have a gigabyte.

        Raises:
            JobQueueFull: too many jobs are unfinished.
        """
        await self.table.check(self._limits(request), request.owner)

    async def add(self, request: JobRequest, descriptor: int, byte_size: int) -> str:
        """Add a job for an open file, of which a copy is stored; return the id.

        Raises:
            JobQueueFull: too many jobs are unfinished.
            UploadStorageError: the file cannot be stored.
            DatabaseUnavailable: the job cannot be stored.
        """
        job_id, queue = new_job_id(), queue_of(await self.files.folder_id())
        # The file is durable before the row: a job without its file would be lost.
        await self.files.add(job_id, descriptor)
        try:
            await self._insert(request, request.new_job(job_id, queue, byte_size))
        except CommitUncertain:
            # The commit may have succeeded. If it has not, the sweep deletes the file.
            raise
        except (JobQueueFull, DatabaseUnavailable):
            await self.files.remove(job_id)
            raise
        return job_id

    async def add_original(self, request: JobRequest, media: Media) -> str:
        """Add a job for a stored image; return the id. Raises as `add` does."""
        size = media.facts.byte_size if media.facts else media.file_size or 0
        job_id = new_job_id()
        await self._insert(request, request.new_job(job_id, ORIGINALS, size, media.id))
        return job_id

    async def _insert(self, request: JobRequest, job: NewJob) -> None:
        try:
            await self.table.add(job, self._limits(request))
        except CommitUncertain as error:
            try:
                stored = await self.table.find([job.id])
            except DatabaseUnavailable:
                raise error from None
            if not stored:
                raise
        self.on_job()

    def _limits(self, request: JobRequest) -> JobLimits:
        own = self.settings.max_jobs_per_user if request.limited else self.settings.max_jobs
        return JobLimits(self.settings.max_jobs, own)

    async def delete(self, job: StoredJob) -> None:
        """Delete a job with its file and its result; an attempt under way ends."""
        await self.table.delete(job.id)
        # If this server does not have the file, the sweep of the one that does deletes it.
        await self.files.remove(job.id)

    async def prune(self) -> None:
        """Delete old jobs, and files whose job has ended.

        If the database is unavailable, the next call does it.
        """
        with suppress(DatabaseUnavailable):
            if pruned := await self.table.prune():
                log.info("metadata_jobs_pruned", category="result", jobs=pruned)
            names = list(await self.files.abandoned())
            for start in range(0, len(names), _BATCH):
                batch = names[start : start + _BATCH]
                needed = await self.table.pending(batch)
                for job_id in set(batch) - needed:
                    await self.files.remove(job_id)

    def statistics(self) -> Mapping[str, float]:
        """Return the counters of this server, and the number of unfinished jobs of all servers."""
        return {"pending_jobs": self.pending, **{name: self.counts[name] for name in COUNTS}}


class MetadataJobWorker:
    """Runs ``metadata.concurrency`` jobs at a time until `stop`.

    See `proxy.ingest.worker_loop.running_worker`.
    """

    def __init__(
        self,
        jobs: MetadataJobs,
        extractor: Extractor,
        *,
        media: MediaRepository,
        originals: OriginalReader,
        supervisor: TaskSupervisor = UNCOUNTED,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.supervisor = supervisor
        self._jobs, self._table, self._counts = jobs, jobs.table, jobs.counts
        self._settings = jobs.settings
        self._extractor = extractor
        self._media = media
        self._originals = originals
        self._jitter = jitter
        self._worker_id = new_worker_id()
        self._stopping = False
        self._woken = (asyncio.Event(), asyncio.Event())
        self._counted_at = -_COUNT_EVERY_S

    async def run(self) -> None:
        """Run jobs and callbacks until `stop`."""
        extraction, callback = self._woken
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self._dispatch(self._extract, extraction, slots=self._settings.concurrency)
            )
            group.create_task(self._dispatch(self._notify, callback, slots=_CALLBACKS_AT_ONCE))

    async def prune(self) -> None:
        """Delete old jobs and files; see `MetadataJobs.prune`."""
        await self._jobs.prune()

    def wake(self) -> None:
        """End the current rest: a job is due."""
        for event in self._woken:
            event.set()

    def stop(self) -> None:
        """Begin no further job."""
        self._stopping = True
        self.wake()

    async def _dispatch(
        self, work: Callable[[LeasedJob], Awaitable[None]], woken: asyncio.Event, *, slots: int
    ) -> None:
        free = asyncio.Semaphore(slots)

        def ended(_task: asyncio.Task[None]) -> None:
            free.release()
            # The job may be due again before the current rest ends.
            woken.set()

        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                await free.acquire()
                # Before the search: a job that is added during it ends the rest.
                woken.clear()
                job = None if self._stopping else await self._claim(work)
                if isinstance(job, LeasedJob):
                    task = group.create_task(self._run_leased(job, work))
                    task.add_done_callback(ended)
                    continue
                free.release()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0 if self._stopping else job):
                        await woken.wait()

    async def _claim(self, work: object) -> LeasedJob | float:
        """Lease a job, or return the seconds to rest."""
        try:
            # `==`, not `is`: each access makes a new bound method.
            queues = [CALLBACKS] if work == self._notify else await self._queues()
            await self._count()
            # A read first: a claim is a write transaction, of which SQLite has one at a time.
            due_s = await self._table.due_in_s(queues)
            if due_s != 0:
                return _POLL_S if due_s is None else min(_POLL_S, max(_MIN_REST_S, due_s))
            for queue in queues:
                if job := await self._table.claim(queue, self._worker_id):
                    return job
        except DatabaseUnavailable as error:
            log.warning("metadata_jobs_not_read", category="error", cause=error.reason)
            return _POLL_S
        return _MIN_REST_S

    async def _queues(self) -> list[str]:
        queues = [ORIGINALS]
        # Without a folder there are no files that this server could read.
        with suppress(SmartserveError):
            if folder_id := await self._jobs.files.known_id():
                queues.append(queue_of(folder_id))
        # In random order, so that no queue has to wait until the other one is empty.
        return sorted(queues, key=lambda _: self._jitter(0, 1))

    async def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= _COUNT_EVERY_S:
            self._counted_at = now
            self._jobs.pending = await self._table.count_pending()

    async def _run_leased(
        self, job: LeasedJob, work: Callable[[LeasedJob], Awaitable[None]]
    ) -> None:
        """Run a job; one that is left unfinished is taken over once its lease expires."""
        self._counts["jobs_taken_over"] += job.taken_over
        try:
            async with renewed(self._table, job, 3 * _RENEW_EVERY_S, self.supervisor):
                await work(job)
        except asyncio.CancelledError:
            # Released, so that another server continues now and not when the lease expires.
            with suppress(LeaseLost, DatabaseUnavailable):
                await self._table.release(job)
            raise
        except LeaseLost:
            _log("metadata_job_lost", job, category="error")
            await self._remove_if_deleted(job)
        except RowRejected as error:
            # Such as the result: it would be rejected in each attempt.
            _log("metadata_job_rejected", job, category="error", cause=error.reason)
            with suppress(LeaseLost, DatabaseUnavailable):
                await self._failed(job, error)
        except DatabaseUnavailable as error:
            _log("metadata_job_interrupted", job, category="error", cause=error.reason)
            with suppress(LeaseLost, DatabaseUnavailable):
                await self._table.release(job, again_in_s=_DEFERRED_S)
        except Exception:
            # One faulty job must not stop the others. Its lease expires, and counts the attempt.
            log.exception("metadata_job_abandoned", category="error", job=job.id)

    async def _remove_if_deleted(self, job: LeasedJob) -> None:
        with suppress(DatabaseUnavailable):
            if job.id not in await self._table.find([job.id]):
                await self._jobs.files.remove(job.id)

    async def _extract(self, job: LeasedJob) -> None:
        if job.exhausted:
            await self._fail(job, error=_ENDED, code="ENGINE_FAILED")
            return
        try:
            result = await self._result(job)
        except (LeaseLost, DatabaseUnavailable):
            raise
        except CapacityError:
            # The engines are busy with other files, so this is no failure of the job.
            self._counts["jobs_deferred"] += 1
            await self._table.release(job, again_in_s=self._jitter(0.5, 1.5) * _DEFERRED_S)
        except SmartserveError as error:
            await self._failed(job, error)
        else:
            await self._table.complete(job, result)
            self._counts["jobs_completed"] += 1
            _log("metadata_job_completed", job, category="result")
            await self._ended(job)

    async def _failed(self, job: LeasedJob, error: SmartserveError) -> None:
        reason = {"error": error.detail, "code": error.code}
        if error.status < _CLIENT_ERRORS or job.attempts >= self._settings.job_attempts:
            await self._fail(job, **reason)
            return
        # Exponential, with jitter: many jobs that fail together must not come back together.
        pause_s = self._settings.job_backoff_s * 2 ** (job.attempts - 1) * self._jitter(0.5, 1.5)
        if isinstance(error, ExtractionFailed):
            pause_s = max(pause_s, self._jitter(1.0, 1.5) * _REMEMBERED_S)
        self._counts["jobs_retried"] += 1
        _log("metadata_job_retried", job, category="error", code=error.code, again_in_s=pause_s)
        await self._table.retry(job, again_in_s=pause_s, **reason)

    async def _fail(self, job: LeasedJob, **reason: str) -> None:
        await self._table.fail(job, **reason)
        self._counts["jobs_failed"] += 1
        _log("metadata_job_failed", job, category="error", code=reason["code"])
        await self._ended(job)

    async def _ended(self, job: LeasedJob) -> None:
        # After the commit: if this server ends in between, the sweep deletes the file.
        if job.media_id is None:
            await self._jobs.files.remove(job.id)
        if job.callback:
            self._woken[1].set()

    async def _result(self, job: LeasedJob) -> str:
        """Return the answer as JSON text: that of ``POST /api/extract`` for the same file."""

        def progress(percent: int, _stage: str) -> None:
            job.progress = percent

        tier = Tier(job.options["tier"])
        options = ExtractOptions(
            job.filename,
            # A job of an earlier release has none.
            job.options.get("media_type", ""),
            advanced=job.options["advanced"],
            tier=tier,
        )
        async with (
            self._opened(job) as source,
            self._extractor.receive(read_pieces(source), tier=tier) as file,
        ):
            extraction = await self._extractor.extract(file, options, progress=progress)
            size = file.byte_size
        answer: dict[str, Any] = {
            "success": True,
            "filename": job.filename,
            "filesize": size,
            "tier": tier.value,
            **extraction.to_dict(),
            "request_id": job.id,
        }
        return (await asyncio.to_thread(dumps, answer)).decode()

    @asynccontextmanager
    async def _opened(self, job: LeasedJob) -> AsyncIterator[OpenSource]:
        """Yield the file of a job; raises a SmartserveError."""
        if job.media_id is None:
            async with self._jobs.files.opened(job.id) as source:
                yield source
            return
        media = await self._media.find(job.media_id)
        if media is None or media.source_path is None:
            raise MediaNotFound(f"The image with id {job.media_id} was deleted.")
        with await self._originals.open(media.source_path) as original:
            yield original

    async def _notify(self, job: LeasedJob) -> None:
        """Send the callback of a job that has ended; a failure does not change its status."""
        body = await self._body(job)
        reason = await self._jobs.callbacks.send(job.callback or "", body)
        if not reason:
            self._counts["callbacks_sent"] += 1
            await self._table.settle(job)
            return
        last = job.callback_attempts >= _CALLBACK_ATTEMPTS
        self._counts["callbacks_failed" if last else "callbacks_retried"] += 1
        # Without the address, which may contain a secret of its receiver.
        _log("metadata_callback_failed", job, category="error", reason=reason, last=last)
        if last:
            await self._table.settle(job)
            return
        pause_s = _CALLBACK_BACKOFF_S * 2 ** (job.callback_attempts - 1)
        await self._table.retry(job, again_in_s=pause_s * self._jitter(0.5, 1.5))

    async def _body(self, job: LeasedJob) -> bytes:
        body: dict[str, Any] = {"id": job.id, "status": job.status}
        if job.status is JobStatus.FAILED:
            return orjson.dumps({**body, "error": job.error})
        text = (await self._table.results([job.id])).get(job.id, "{}")

        def combined() -> bytes:
            return orjson.dumps({**body, "metadata": orjson.loads(text).get("metadata")})

        # In a thread: a result may have several megabytes.
        return await asyncio.to_thread(combined)


def _log(event: str, job: LeasedJob, *, category: str, **fields: object) -> None:
    """Log an event of a job, never with a name or a text of its file."""
    level = log.info if category == "result" else log.warning
    level(event, category=category, job=job.id, attempt=job.attempts, **fields)
