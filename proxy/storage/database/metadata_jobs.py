"""The queue of metadata jobs; see `proxy.storage.database.leased_writer`.

A job is in one queue at a time: of extractions, then, if a callback is wanted, of callbacks. There
is a queue of extractions for each folder of uploaded files, so that only servers that can read the
file lease the job, and one for originals, which all servers can read.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import JobQueueFull
from proxy.storage.database.leased_writer import RELEASED, LeasedTable
from proxy.storage.database.metadata_tables import metadata_jobs
from proxy.storage.database.tables import DatabaseClock
from proxy.storage.database.transactions import SqlDatabase

ORIGINALS = "extract"
"""Queue of the extractions from originals."""
CALLBACKS = "callback"
_SETTLED = ""
_BATCH = 200
_MAX_ERROR = 2000
_ABANDONED = "No server that can read the file has processed the job for {hours:g} hours."

_jobs = metadata_jobs.c
_LEASES = LeasedTable(metadata_jobs, key="id", owner="owner", turns="ix_metadata_jobs_turns")


class JobStatus(StrEnum):
    """Status of a job, as clients see it."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """There is no such job, or it belongs to somebody else."""


def queue_of(folder_id: str) -> str:
    """Return the queue of the extractions from files in a folder."""
    return f"{ORIGINALS}:{folder_id}"


class NewJob(NamedTuple):
    """A job to add. It is durable as soon as it is added."""

    id: str
    owner: str
    queue: str
    media_id: int | None
    filename: str
    filesize: int
    options: Mapping[str, Any]
    callback: str | None


@dataclass(slots=True)
class LeasedJob:
    """A job that this worker has leased."""

    id: str
    token: str
    queue: str
    media_id: int | None
    filename: str
    filesize: int
    options: Mapping[str, Any]
    callback: str | None
    attempts: int
    """Extractions begun, this one included if it is one."""
    callback_attempts: int
    """Callbacks begun, this one included if it is one."""
    status: JobStatus
    error: str | None
    taken_over: bool
    """Whether the lease of another worker had expired."""
    exhausted: bool
    """Whether the worker ended in every allowed attempt, so that the job fails."""
    progress: int
    """Per cent, which the next renewal stores."""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as its owner sees it."""

    id: str
    owner: str
    status: JobStatus
    progress: int
    attempts: int
    error: str | None
    code: str | None
    result_bytes: int
    media_id: int | None
    queue: str


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Maximum number of jobs that wait or run."""

    total: int
    per_user: int
    retry_after_s: int = field(default=60)


class MetadataJobTable:
    """Stores jobs. Every method raises DatabaseUnavailable.

    Methods with a leased job raise LeaseLost if another worker has it, or if it was deleted.
    """

    def __init__(
        self, database: SqlDatabase, *, lease_s: float, max_attempts: int, retention_s: float
    ) -> None:
        """Use a database that the caller closes; its isolation must be READ COMMITTED."""
        self._database = database
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._retention_s = retention_s
        self._turns: dict[str, str] = {}
        """The owner whose job was claimed last, by queue."""

    async def add(self, job: NewJob, limits: JobLimits | None = None) -> None:
        """Add a job that is due at once.

        Raises:
            JobQueueFull: there are as many unfinished jobs as ``limits`` allow.
        """
        values = {**job._asdict(), "options": dict(job.options), "status": JobStatus.PENDING}
        now = dict.fromkeys(("not_before", "created_at"), DatabaseClock())

        async def work(connection: AsyncConnection) -> None:
            if limits is not None:
                await _check(connection, limits, job.owner)
            await connection.execute(sa.insert(metadata_jobs).values(**values, **now))

        await self._database.run(work)

    async def check(self, limits: JobLimits, owner: str) -> None:
        """Check that a job may be added; raises JobQueueFull."""
        async with self._database.connection() as connection:
            await _check(connection, limits, owner)

    async def claim(self, queue: str, worker_id: str) -> LeasedJob | None:
        """Lease the next job of a queue and count the attempt; return None if none is due.

        The owners are served in turn.
        """

        async def work(connection: AsyncConnection) -> LeasedJob | None:
            condition, after = _jobs.queue == queue, self._turns.get(queue)
            row = await _LEASES.next_due(connection, condition, after=after)
            if row is None:
                return None
            self._turns[queue] = row.owner
            return await self._lease(connection, row, worker_id)

        return await self._database.run(work)

    async def _lease(
        self, connection: AsyncConnection, row: sa.Row[Any], worker_id: str
    ) -> LeasedJob:
        acquired = _LEASES.acquired(self._lease_s)
        notifies = row.queue == CALLBACKS
        exhausted = not notifies and row.attempts >= self._max_attempts
        counted = {
            "attempts": row.attempts + (not notifies and not exhausted),
            "callback_attempts": row.callback_attempts + notifies,
        }
        # Before it runs: a worker that is killed in the attempt has used it up.
        await connection.execute(_update(row.id, worker_id=worker_id, **counted, **acquired))
        return LeasedJob(
            id=row.id,
            token=acquired["lease"],
            queue=row.queue,
            media_id=row.media_id,
            filename=row.filename,
            filesize=row.filesize,
            options=row.options,
            callback=row.callback,
            status=JobStatus(row.status),
            error=row.error,
            taken_over=row.lease is not None,
            exhausted=exhausted,
            # Of a callback: that of the extraction, which has ended.
            progress=row.progress if notifies else 0,
            **counted,
        )

    async def renew(self, job: LeasedJob) -> None:
        """Extend the lease, and store the progress."""
        await self._write(job, progress=job.progress)

    async def release(self, job: LeasedJob, *, again_in_s: float = 0.0) -> None:
        """Return a job to its queue; the attempt does not count, because the job did not fail."""
        notifies = job.queue == CALLBACKS
        await self._write(
            job,
            not_before=DatabaseClock() + again_in_s,
            attempts=job.attempts - (not notifies),
            callback_attempts=job.callback_attempts - notifies,
            **RELEASED,
        )

    async def retry(self, job: LeasedJob, *, again_in_s: float, **reason: str) -> None:
        """Return a job to its queue after a failure; ``reason`` has ``error`` and ``code``."""
        progress = job.progress if job.queue == CALLBACKS else 0
        again = DatabaseClock() + again_in_s
        await self._write(job, not_before=again, progress=progress, **_short(reason), **RELEASED)

    async def complete(self, job: LeasedJob, result: str) -> None:
        """Store the result; the callback is due now."""
        size = len(result.encode())
        await self._write(
            job,
            status=JobStatus.COMPLETED,
            result=result,
            result_bytes=size,
            progress=100,
            error=None,
            code=None,
            **_finished(job.callback),
        )

    async def fail(self, job: LeasedJob, **reason: str) -> None:
        """Mark a job as failed; ``reason`` has ``error`` and ``code``. The callback is due now."""
        await self._write(job, **_failed(job.callback, **_short(reason)))

    async def settle(self, job: LeasedJob) -> None:
        """End the callbacks of a job."""
        await self._write(job, queue=_SETTLED, not_before=None, **RELEASED)

    async def find(self, ids: Collection[str]) -> Mapping[str, StoredJob]:
        """Return the jobs that exist, by id, without their results."""
        names = [name for name in StoredJob.__slots__ if name != "status"]
        query = sa.select(
            *(_jobs[name] for name in names),
            _jobs.status,
            (_jobs.lease_until > DatabaseClock()).label("leased"),
        ).where(_jobs.id.in_(ids))
        found = {}
        for row in await self._database.read(query):
            status = JobStatus(row.status)
            if status is JobStatus.PENDING and row.leased:
                status = JobStatus.PROCESSING
            values = {name: getattr(row, name) for name in names}
            found[row.id] = StoredJob(status=status, **values)
        return found

    async def results(self, ids: Collection[str]) -> Mapping[str, str]:
        """Return the results of completed jobs as JSON text, by id."""
        if not ids:
            return {}
        query = sa.select(_jobs.id, _jobs.result).where(_jobs.id.in_(ids))
        rows = await self._database.read(query)
        return {row.id: row.result for row in rows if row.result is not None}

    async def delete(self, job_id: str) -> bool:
        """Delete a job; return False if there is none. A worker that runs it loses its lease."""
        gone = sa.delete(metadata_jobs).where(_jobs.id == job_id)
        return bool((await self._database.run(lambda one: one.execute(gone))).rowcount)

    async def pending(self, ids: Collection[str]) -> frozenset[str]:
        """Return which of these jobs still need their file."""
        query = sa.select(_jobs.id).where(_jobs.id.in_(ids), _jobs.status == JobStatus.PENDING)
        return frozenset(row.id for row in await self._database.read(query)) if ids else frozenset()

    async def count_pending(self) -> int:
        """Return the number of jobs that wait or run."""
        count = sa.select(sa.func.count()).where(_jobs.status == JobStatus.PENDING)
        return int((await self._database.read(count))[0][0])

    async def due_in_s(self, queues: Sequence[str]) -> float | None:
        """Return the seconds until a job of these queues is due, or None if none waits."""
        return await _LEASES.due_in_s(self._database, _jobs.queue.in_(queues))

    async def prune(self) -> int:
        """Delete jobs that ended before the retention began; fail jobs that have waited as long.

        Return how many were deleted.
        """
        limit = DatabaseClock() - self._retention_s
        # A callback that is still due is given up with its result.
        old = sa.and_(_jobs.finished_at < limit, _LEASES.free)
        lost = sa.and_(_jobs.status == JobStatus.PENDING, _jobs.created_at < limit, _LEASES.free)
        reason = _ABANDONED.format(hours=self._retention_s / 3600)

        async def delete(connection: AsyncConnection) -> int:
            gone = await _ids(connection, old)
            # The condition again: another server may prune as well.
            statement = sa.delete(metadata_jobs).where(_jobs.id.in_(gone), old)
            return (await connection.execute(statement)).rowcount if gone else 0

        async def fail(connection: AsyncConnection) -> int:
            found = await _ids(connection, lost)
            for job_id, callback in found.items():
                values = _failed(callback, error=reason, code="TIMEOUT")
                await connection.execute(_update(job_id, **values).where(lost))
            return len(found)

        while await self._database.run(fail) == _BATCH:
            pass
        pruned = 0
        while count := await self._database.run(delete):
            pruned += count
        return pruned

    async def _write(self, job: LeasedJob, **values: Any) -> None:
        await _LEASES.fenced(
            self._database,
            job.id,
            job.token,
            lambda connection: connection.execute(_update(job.id, **values)),
            lease_s=self._lease_s,
        )


def new_job_id() -> str:
    """Return a new id, which nobody can guess, and which is safe as a file name."""
    return secrets.token_hex(16)


async def _check(connection: AsyncConnection, limits: JobLimits, owner: str) -> None:
    waiting = sa.select(sa.func.count()).where(_jobs.status == JobStatus.PENDING)
    for query, limit in (
        (waiting, limits.total),
        (waiting.where(_jobs.owner == owner), limits.per_user),
    ):
        if (await connection.scalar(query) or 0) >= limit:
            raise JobQueueFull(
                f"{limit} jobs are unfinished; no more are accepted. Retry later.",
                retry_after_s=limits.retry_after_s,
            )


def _update(job_id: str, **values: Any) -> sa.Update:
    return sa.update(metadata_jobs).where(_jobs.id == job_id).values(**values)


def _finished(callback: str | None) -> dict[str, Any]:
    due = {"queue": CALLBACKS, "not_before": DatabaseClock()}
    settled = {"queue": _SETTLED, "not_before": None}
    return {**(due if callback else settled), "finished_at": DatabaseClock(), **RELEASED}


def _failed(callback: str | None, **reason: str) -> dict[str, Any]:
    return {"status": JobStatus.FAILED, **reason, **_finished(callback)}


def _short(reason: Mapping[str, str]) -> dict[str, str]:
    return {name: text[:_MAX_ERROR] for name, text in reason.items()}


async def _ids(
    connection: AsyncConnection, condition: sa.ColumnElement[bool]
) -> Mapping[str, str | None]:
    """Return a batch of jobs with their callbacks."""
    query = sa.select(_jobs.id, _jobs.callback).where(condition).limit(_BATCH)
    return {row.id: row.callback for row in await connection.execute(query)}
