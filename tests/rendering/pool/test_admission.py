"""A bounded number of jobs run, a bounded number wait, the rest is rejected."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from proxy.domain.errors import QueueFull, ShuttingDown
from proxy.rendering.pool.admission import Admission, WorkerUsage
from proxy.settings import WorkerSettings
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
    assert admission.free_places == 0
    for guest in guests:
        await guest.go()
    assert admission.free_places == 3


def test_a_job_that_waits_occupies_no_worker() -> None:
    usage = WorkerUsage()
    with usage.job():
        assert usage.statistics() == {"busy": 0}


def test_a_repeated_job_occupies_one_worker() -> None:
    usage = WorkerUsage()
    with usage.job() as start, usage.job() as other:
        start()
        start()
        assert usage.statistics() == {"busy": 1}
        other()
        assert usage.statistics() == {"busy": 2}
    assert usage.statistics() == {"busy": 0}


def test_a_failed_job_frees_its_worker() -> None:
    usage = WorkerUsage()
    with suppress(LookupError), usage.job() as start:
        start()
        raise LookupError
    assert usage.statistics() == {"busy": 0}
