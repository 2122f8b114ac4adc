"""Metadata jobs hold for all databases: each runs on one worker, is kept, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.domain.errors import JobQueueFull, LeaseLost
from proxy.settings import DatabaseSettings
from proxy.storage.database.metadata_jobs import (
    CALLBACKS,
    ORIGINALS,
    JobLimits,
    JobStatus,
    LeasedJob,
    MetadataJobTable,
    NewJob,
    StoredJob,
    queue_of,
)
from proxy.storage.database.transactions import SqlDatabase
from tests.storage.database.backends import Backend

HERE = queue_of("a" * 32)
LEASE_S = 30.0
RETENTION_S = 3600.0
HOOK = "https://hooks.example.org/metadata"


@pytest.fixture
async def jobs(url: str, settings: DatabaseSettings) -> AsyncIterator[MetadataJobTable]:
    patient = settings.model_copy(update={"query_timeout_s": 60, "connect_timeout_s": 60})
    async with SqlDatabase(url, patient, isolation="READ COMMITTED") as database:
        yield MetadataJobTable(database, lease_s=LEASE_S, max_attempts=3, retention_s=RETENTION_S)


def new(
    number: int, owner: str = "user:4", *, queue: str = HERE, callback: str | None = None
) -> NewJob:
    options = {"tier": "enterprise", "advanced": False}
    name = f"{number:032x}"
    return NewJob(name, owner, queue, None, "Käse 🚢.png", 5, options, callback)


async def claimed(jobs: MetadataJobTable, queue: str = HERE) -> LeasedJob:
    job = await jobs.claim(queue, "w1")
    assert job is not None
    return job


async def stored(jobs: MetadataJobTable, job_id: str) -> StoredJob:
    return (await jobs.find([job_id]))[job_id]


def run_out(backend: Backend, url: str) -> None:
    backend.run(url, "UPDATE metadata_jobs SET lease_until = 1 WHERE lease IS NOT NULL; SELECT 1")


def age(backend: Backend, url: str) -> None:
    """Let more time pass than the retention."""
    past = f"{RETENTION_S + 60}"
    backend.run(
        url,
        f"UPDATE metadata_jobs SET created_at = created_at - {past},"
        f" finished_at = finished_at - {past}; SELECT 1",
    )


async def test_a_job_is_pending_then_processing_then_completed_with_its_result(
    jobs: MetadataJobTable,
) -> None:
    await jobs.add(new(1))
    assert (await stored(jobs, new(1).id)).status == JobStatus.PENDING
    job = await claimed(jobs)
    assert (job.filename, job.options["tier"]) == ("Käse 🚢.png", "enterprise")
    job.progress = 50
    await jobs.renew(job)
    seen = await stored(jobs, job.id)
    assert (seen.status, seen.progress, seen.attempts) == (JobStatus.PROCESSING, 50, 1)
    assert await jobs.results([job.id]) == {}
    await jobs.complete(job, '{"prompt": "🚢"}')
    seen = await stored(jobs, job.id)
    assert (seen.status, seen.progress, seen.error) == (JobStatus.COMPLETED, 100, None)
    assert await jobs.results([job.id]) == {job.id: '{"prompt": "🚢"}'}
    assert await jobs.claim(HERE, "w2") is None


async def test_the_largest_result_is_stored(jobs: MetadataJobTable) -> None:
    await jobs.add(new(1))
    result = '{"text": "' + "🚢" * 1_100_000 + '"}'
    await jobs.complete(await claimed(jobs), result)
    assert await jobs.results([new(1).id]) == {new(1).id: result}


async def test_jobs_of_a_folder_that_a_server_cannot_read_are_left_to_others(
    jobs: MetadataJobTable,
) -> None:
    await jobs.add(new(1, queue=queue_of("b" * 32)))
    await jobs.add(new(2, queue=ORIGINALS))
    assert await jobs.claim(HERE, "w1") is None
    assert (await claimed(jobs, ORIGINALS)).id == new(2).id
    assert await jobs.due_in_s([HERE]) is None


async def test_the_owners_of_jobs_are_served_in_turn(jobs: MetadataJobTable) -> None:
    for number, owner in enumerate(("user:1", "user:1", "user:1", "user:2", "key")):
        await jobs.add(new(number, owner))
    order = [(await claimed(jobs)).id for _ in range(5)]
    assert order == [new(number).id for number in (4, 0, 3, 1, 2)]


async def test_a_job_whose_worker_was_killed_is_taken_over_and_the_lost_attempt_counts(
    jobs: MetadataJobTable, backend: Backend, url: str
) -> None:
    await jobs.add(new(1))
    first = await claimed(jobs)
    assert not first.taken_over
    run_out(backend, url)
    assert (await stored(jobs, first.id)).status == JobStatus.PENDING
    second = await claimed(jobs)
    assert second.taken_over
    assert (await stored(jobs, first.id)).attempts == 2
    for write in (
        jobs.renew(first),
        jobs.release(first),
        jobs.retry(first, again_in_s=0, error="no", code="TIMEOUT"),
        jobs.complete(first, "{}"),
        jobs.fail(first, error="no", code="TIMEOUT"),
        jobs.settle(first),
    ):
        with pytest.raises(LeaseLost):
            await write
    await jobs.complete(second, "{}")


async def test_a_job_that_ends_all_its_workers_is_exhausted(
    jobs: MetadataJobTable, backend: Backend, url: str
) -> None:
    await jobs.add(new(1))
    for attempt in (1, 2, 3):
        job = await claimed(jobs)
        assert (job.attempts, job.exhausted) == (attempt, False)
        run_out(backend, url)
    job = await claimed(jobs)
    assert (job.attempts, job.exhausted) == (3, True)


async def test_a_released_job_is_due_again_and_its_attempt_does_not_count(
    jobs: MetadataJobTable,
) -> None:
    await jobs.add(new(1))
    await jobs.release(await claimed(jobs))
    assert (await claimed(jobs)).attempts == 1


async def test_a_failed_attempt_is_repeated_later_with_its_reason_shown(
    jobs: MetadataJobTable,
) -> None:
    await jobs.add(new(1))
    await jobs.retry(await claimed(jobs), again_in_s=500, error="slow", code="TIMEOUT")
    seen = await stored(jobs, new(1).id)
    assert (seen.status, seen.error, seen.code) == (JobStatus.PENDING, "slow", "TIMEOUT")
    assert await jobs.claim(HERE, "w1") is None
    assert await jobs.due_in_s([HERE]) == pytest.approx(500, abs=100)


async def test_the_callback_of_a_job_is_due_when_it_has_ended_and_does_not_change_its_status(
    jobs: MetadataJobTable,
) -> None:
    await jobs.add(new(1, callback=HOOK))
    await jobs.add(new(2, callback=HOOK))
    assert await jobs.claim(CALLBACKS, "w1") is None
    await jobs.complete(await claimed(jobs), "{}")
    await jobs.fail(await claimed(jobs), error="bad", code="INVALID_FILE_TYPE")
    first, second = await claimed(jobs, CALLBACKS), await claimed(jobs, CALLBACKS)
    assert (first.status, first.callback, first.callback_attempts) == ("completed", HOOK, 1)
    assert (second.status, second.error) == ("failed", "bad")
    await jobs.retry(first, again_in_s=0)
    first = await claimed(jobs, CALLBACKS)
    assert (first.callback_attempts, first.attempts) == (2, 1)
    await jobs.settle(first)
    seen = await stored(jobs, first.id)
    assert (seen.status, seen.progress) == (JobStatus.COMPLETED, 100)
    assert await jobs.claim(CALLBACKS, "w1") is None


async def test_more_jobs_than_allowed_are_refused(jobs: MetadataJobTable) -> None:
    limits = JobLimits(total=3, per_user=2)
    await jobs.add(new(1, "user:1"), limits)
    await jobs.add(new(2, "user:1"), limits)
    for refused in (jobs.add(new(3, "user:1"), limits), jobs.check(limits, "user:1")):
        with pytest.raises(JobQueueFull) as raised:
            await refused
        assert raised.value.retry_after_s
    await jobs.add(new(4, "user:2"), limits)
    with pytest.raises(JobQueueFull):
        await jobs.add(new(5, "user:3"), limits)
    # Jobs that have ended do not count.
    await jobs.complete(await claimed(jobs), "{}")
    await jobs.check(limits, "user:3")


async def test_a_deleted_job_is_gone_and_its_worker_loses_the_lease(
    jobs: MetadataJobTable,
) -> None:
    await jobs.add(new(1))
    job = await claimed(jobs)
    assert await jobs.delete(job.id)
    assert not await jobs.delete(job.id)
    assert await jobs.find([job.id]) == {}
    with pytest.raises(LeaseLost):
        await jobs.complete(job, "{}")


async def test_results_are_deleted_after_the_retention_and_not_before(
    jobs: MetadataJobTable, backend: Backend, url: str
) -> None:
    await jobs.add(new(1))
    await jobs.complete(await claimed(jobs), "{}")
    assert await jobs.prune() == 0
    age(backend, url)
    assert await jobs.prune() == 1
    assert await jobs.find([new(1).id]) == {}


async def test_a_job_that_nobody_runs_fails_with_the_reason_instead_of_waiting_for_ever(
    jobs: MetadataJobTable, backend: Backend, url: str
) -> None:
    await jobs.add(new(1, callback=HOOK))
    await jobs.add(new(2))
    running = await claimed(jobs)
    age(backend, url)
    assert await jobs.prune() == 0
    other = ({new(1).id, new(2).id} - {running.id}).pop()
    seen = await stored(jobs, other)
    assert seen.status == JobStatus.FAILED
    assert "No server that can read the file" in str(seen.error)
    assert (await stored(jobs, running.id)).status == JobStatus.PROCESSING


async def test_the_file_of_a_job_is_needed_until_it_has_ended(jobs: MetadataJobTable) -> None:
    await jobs.add(new(1))
    await jobs.add(new(2))
    ids = [new(number).id for number in (1, 2, 3)]
    assert await jobs.count_pending() == 2
    await jobs.complete(await claimed(jobs), "{}")
    assert await jobs.pending(ids) == {ids[1]}
    assert await jobs.pending([]) == frozenset()


async def test_of_workers_that_claim_at_once_each_gets_another_job(
    jobs: MetadataJobTable,
) -> None:
    for number in range(8):
        await jobs.add(new(number, f"user:{number % 3}"))
    found = await asyncio.gather(*(jobs.claim(HERE, f"w{number}") for number in range(8)))
    assert len({job.id for job in found if job is not None}) == 8
