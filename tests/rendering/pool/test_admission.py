"""A bounded number of jobs run; others wait while the wait is short enough; the rest is rejected.

An image that failed is refused for a while, longer after each crash.
"""

from __future__ import annotations

import asyncio

import pytest

from proxy.domain.errors import (
    QueueFull,
    RenderFault,
    ShuttingDown,
    SourceQuarantined,
    SourceUnavailable,
    UndecodableSource,
)
from proxy.rendering.pool.admission import Admission, FailureCache
from proxy.rendering.pool.process import WorkerDied
from proxy.settings import WorkerSettings
from tests.support.clock import Clock
from tests.support.waiting import eventually


class Guest:
    """A job that enters and stays until it may leave."""

    def __init__(self, gate: Admission) -> None:
        self.leave = asyncio.Event()
        self.inside = asyncio.Event()
        self.task = asyncio.create_task(self._stay(gate))

    async def _stay(self, gate: Admission) -> None:
        async with gate.enter():
            self.inside.set()
            await self.leave.wait()

    async def go(self) -> None:
        self.leave.set()
        await self.task


async def is_waiting(gate: Admission) -> None:
    await eventually(lambda: gate.statistics()["waiting"] == 1)


def gate(*, queue: int = 1, wait_s: float = 10) -> Admission:
    settings = WorkerSettings(count=1, max_queue=queue, max_queue_wait_s=wait_s, retry_after_s=7)
    return Admission(settings)


async def test_one_runs_two_wait_and_the_fourth_is_rejected() -> None:
    admission = gate(queue=2)
    at_work, ready = Guest(admission), Guest(admission)
    await at_work.inside.wait()
    await ready.inside.wait()
    waiting = Guest(admission)
    await is_waiting(admission)
    with pytest.raises(QueueFull) as refused:
        async with admission.enter():
            pass
    assert refused.value.retry_after_s == 7
    await at_work.go()
    await waiting.inside.wait()
    await ready.go()
    await waiting.go()
    assert admission.statistics() == {
        "waiting": 0,
        "inside": 0,
        "rejected_queue_full": 1,
        "rejected_queue_wait": 0,
        "rejected_shutdown": 0,
        "rejected_pressure": 0,
    }


async def test_it_is_full_while_the_next_job_would_be_rejected() -> None:
    admission = gate(queue=1)
    at_work, ready = Guest(admission), Guest(admission)
    assert admission.free_places > 0
    await at_work.inside.wait()
    await ready.inside.wait()
    assert admission.free_places == 0
    error = admission.shed()
    assert error.retry_after_s == 7
    assert admission.statistics()["rejected_pressure"] == 1
    await at_work.go()
    assert admission.free_places > 0
    await ready.go()


async def test_a_job_enters_a_free_place_even_if_none_may_wait() -> None:
    admission = gate(queue=0)
    async with admission.enter():
        assert admission.statistics()["inside"] == 1


async def test_a_wait_is_limited() -> None:
    admission = gate(queue=2, wait_s=0.01)
    first, second = Guest(admission), Guest(admission)
    await second.inside.wait()
    with pytest.raises(QueueFull, match="too long"):
        async with admission.enter():
            pass
    await first.go()
    await second.go()
    assert admission.statistics()["rejected_queue_wait"] == 1


async def test_a_cancelled_wait_frees_its_place_in_the_queue() -> None:
    admission = gate(queue=2)
    first, second = Guest(admission), Guest(admission)
    await second.inside.wait()
    leaving = Guest(admission)
    await is_waiting(admission)
    leaving.task.cancel()
    await asyncio.gather(leaving.task, return_exceptions=True)
    assert admission.statistics()["waiting"] == 0
    await first.go()
    await second.go()
    async with admission.enter():
        pass


async def test_nothing_enters_after_it_is_closed() -> None:
    admission = gate()
    admission.close()
    with pytest.raises(ShuttingDown):
        async with admission.enter():
            pass


async def test_a_check_raises_what_entering_would() -> None:
    gate = Admission(WorkerSettings(count=1, max_queue=0))
    gate.check()
    async with gate.enter():
        with pytest.raises(QueueFull):
            gate.check()
    gate.check()
    gate.close()
    with pytest.raises(ShuttingDown):
        gate.check()


async def test_free_places_are_the_jobs_that_would_be_accepted() -> None:
    admission = gate(queue=2)
    assert (admission.free_places, admission.max_waiting) == (3, 1)
    guests = [Guest(admission) for _ in range(3)]
    await is_waiting(admission)
    assert admission.free_places == 0
    for guest in guests:
        await guest.go()
    assert admission.free_places == 3


async def crowd(admission: Admission, count: int, kind: str) -> list[asyncio.Task[None]]:
    """Let jobs of a kind enter, which hold their places until they are cancelled."""

    async def stay() -> None:
        async with admission.enter(kind):
            await asyncio.Future()

    tasks = [asyncio.create_task(stay()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def leave(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_burst_of_quick_jobs_is_accepted_as_far_as_the_wait_allows() -> None:
    admission = gate(queue=1000, wait_s=10)
    admission.learn("thumbnail", 0.05)
    # One runs and one is prepared; 200 waiting ones take 10 s.
    tasks = await crowd(admission, 2 + 200, "thumbnail")
    assert admission.statistics()["waiting"] == 200
    assert admission.free_places == 0
    with pytest.raises(QueueFull, match="free in about 10 s") as refused:
        admission.check()
    assert refused.value.retry_after_s == 7
    assert admission.statistics()["rejected_queue_wait"] == 1
    await leave(tasks)
    admission.check()
    assert admission.free_places == 200


async def test_a_slow_job_before_a_burst_does_not_make_the_burst_look_slow() -> None:
    admission = gate(queue=1000, wait_s=10)
    admission.learn("zoom", 5)
    tasks = await crowd(admission, 2 + 140, "thumbnail")
    assert admission.statistics()["waiting"] == 140
    admission.check()
    await leave(tasks)


async def test_jobs_of_unknown_kinds_are_still_accepted_when_the_known_ones_have_started() -> None:
    admission = gate(queue=1000, wait_s=10)
    # As floats, 0.7 + 0.1 - 0.7 - 0.1 is less than 0.
    admission.learn("zoom", 0.7)
    admission.learn("thumbnail", 0.1)
    running = await crowd(admission, 2, "running")
    known = [*await crowd(admission, 1, "zoom"), *await crowd(admission, 1, "thumbnail")]
    unknown = await crowd(admission, 5, "never measured")
    await leave(running)
    assert admission.statistics()["waiting"] == 5
    admission.check()
    assert admission.free_places > 5
    await leave(known + unknown)


async def test_few_slow_jobs_fill_the_queue() -> None:
    admission = gate(queue=1000, wait_s=10)
    admission.learn("zoom", 5)
    assert admission.max_waiting == 2
    tasks = await crowd(admission, 2 + 2, "zoom")
    with pytest.raises(QueueFull):
        admission.check()
    await leave(tasks)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_job_that_takes_a_worker_for_long_does_not_fill_the_queue(workers: int) -> None:
    settings = WorkerSettings(count=workers, max_queue=1000, max_queue_wait_s=10)
    admission = Admission(settings)
    admission.learn("thumbnail", 0.05)
    admission.learn("finals of an upload", 60)
    long = await crowd(admission, 2 * workers + 1, "finals of an upload")
    assert admission.statistics()["waiting"] == 1
    assert admission.free_places == 200, "one worker is left for the others"
    quick = await crowd(admission, 200, "thumbnail")
    with pytest.raises(QueueFull):
        admission.check()
    await leave(long + quick)
    assert admission.free_places == 200 * workers


async def test_more_workers_shorten_the_predicted_wait() -> None:
    admission = Admission(WorkerSettings(count=4, max_queue=1000, max_queue_wait_s=10))
    admission.learn("zoom", 5)
    assert (admission.free_places, admission.max_waiting) == (8, 8)


async def test_a_service_time_is_the_mean_of_the_recent_ones() -> None:
    admission = gate(queue=1000, wait_s=10)
    admission.learn("zoom", 10)
    for _ in range(100):
        admission.learn("zoom", 0.1)
    assert admission.max_waiting == 100


async def test_the_number_of_jobs_that_wait_is_limited_however_quick_they_are() -> None:
    admission = gate(queue=20, wait_s=10)
    admission.learn("thumbnail", 0.001)
    tasks = await crowd(admission, 21, "thumbnail")
    with pytest.raises(QueueFull):
        admission.check()
    assert admission.statistics()["rejected_queue_full"] == 1
    await leave(tasks)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> FailureCache:
    return FailureCache(failure_s=10, quarantine_s=60, clock=clock)


def refused(failures: FailureCache, key: str = "image") -> bool:
    try:
        failures.check(key)
    except (UndecodableSource, SourceQuarantined):
        return True
    return False


def death() -> RenderFault:
    """The error of a job whose worker died while its response was streamed."""
    error = RenderFault("the worker process ended while it was writing the image")
    error.__cause__ = WorkerDied("crash")
    return error


def test_one_death_of_a_worker_during_a_response_refuses_nothing(failures: FailureCache) -> None:
    failures.remember("image", death())
    failures.check("image")


def test_a_second_death_of_a_worker_quarantines_the_image(
    failures: FailureCache, clock: Clock
) -> None:
    failures.remember("image", death())
    failures.remember("image", death())
    with pytest.raises(SourceQuarantined):
        failures.check("image")
    clock.now += 100
    assert refused(failures)


def test_an_image_that_never_failed_is_accepted(failures: FailureCache) -> None:
    assert not refused(failures)


def test_a_corrupt_image_is_refused_for_a_short_while(failures: FailureCache, clock: Clock) -> None:
    failures.remember("image", UndecodableSource("corrupt"))
    with pytest.raises(UndecodableSource, match="corrupt"):
        failures.check("image")
    clock.now += 10
    assert not refused(failures)


def test_an_image_that_crashes_workers_is_refused_for_twice_as_long_each_time(
    failures: FailureCache, clock: Clock
) -> None:
    for length_s in (60, 120, 240):
        failures.remember("image", SourceQuarantined("killer"))
        clock.now += length_s - 1
        assert refused(failures)
        clock.now += 1
        assert not refused(failures)


def test_the_longest_time_is_an_hour(failures: FailureCache, clock: Clock) -> None:
    for _ in range(100):
        failures.remember("image", SourceQuarantined("killer"))
    clock.now += 3600
    assert not refused(failures)


@pytest.mark.parametrize("error", [QueueFull("busy"), SourceUnavailable("no storage")])
def test_an_error_that_the_image_did_not_cause_is_not_remembered(
    failures: FailureCache, error: QueueFull | SourceUnavailable
) -> None:
    failures.remember("image", error)
    assert not refused(failures)


def test_other_images_are_accepted(failures: FailureCache) -> None:
    failures.remember("image", SourceQuarantined("killer"))
    assert not refused(failures, "another")


def test_an_hour_without_failures_resets_the_back_off(failures: FailureCache, clock: Clock) -> None:
    failures.remember("image", SourceQuarantined("killer"))
    clock.now += 60 + 3601
    failures.remember("image", SourceQuarantined("killer"))
    clock.now += 60
    assert not refused(failures)
