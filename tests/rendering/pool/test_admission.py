"""Admission: a bounded number at work, a bounded number waiting, the rest turned away."""

import asyncio
from contextlib import suppress

import pytest

from proxy.domain.errors import QueueFull, ShuttingDown
from proxy.rendering.pool.admission import Admission, WorkerUsage
from proxy.settings import WorkerSettings


class Guest:
    """Somebody who enters and stays until told to leave."""

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


def gate(*, queue: int = 1, wait_s: float = 10) -> Admission:
    settings = WorkerSettings(count=1, max_queue=queue, max_queue_wait_s=wait_s, retry_after_s=7)
    return Admission(settings)


async def test_one_works_two_wait_and_the_fourth_is_turned_away() -> None:
    admission = gate(queue=2)
    at_work, ready = Guest(admission), Guest(admission)
    await at_work.inside.wait()
    await ready.inside.wait()
    waiting = Guest(admission)
    await asyncio.sleep(0)
    assert admission.statistics()["waiting"] == 1
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


async def test_it_is_full_as_long_as_whoever_comes_is_turned_away() -> None:
    admission = gate(queue=1)
    at_work, ready = Guest(admission), Guest(admission)
    assert not admission.full
    await at_work.inside.wait()
    await ready.inside.wait()
    assert admission.full
    told = admission.shed()
    assert told.retry_after_s == 7
    assert admission.statistics()["rejected_pressure"] == 1
    await at_work.go()
    assert not admission.full
    await ready.go()


async def test_a_free_place_is_taken_also_where_nothing_may_wait() -> None:
    admission = gate(queue=0)
    async with admission.enter():
        assert admission.statistics()["inside"] == 1


async def test_a_wait_that_grows_too_long_ends() -> None:
    admission = gate(queue=2, wait_s=0.01)
    first, second = Guest(admission), Guest(admission)
    await second.inside.wait()
    with pytest.raises(QueueFull, match="too long"):
        async with admission.enter():
            pass
    await first.go()
    await second.go()
    assert admission.statistics()["rejected_queue_wait"] == 1


async def test_one_who_leaves_the_queue_gives_up_his_place() -> None:
    admission = gate(queue=2)
    first, second = Guest(admission), Guest(admission)
    await second.inside.wait()
    leaving = Guest(admission)
    await asyncio.sleep(0)
    leaving.task.cancel()
    await asyncio.gather(leaving.task, return_exceptions=True)
    assert admission.statistics()["waiting"] == 0
    await first.go()
    await second.go()
    async with admission.enter():
        pass


async def test_a_closed_gate_lets_nobody_in() -> None:
    admission = gate()
    admission.close()
    with pytest.raises(ShuttingDown):
        async with admission.enter():
            pass


async def test_a_look_tells_what_entering_would() -> None:
    gate = Admission(WorkerSettings(count=1, max_queue=0))
    gate.check()
    async with gate.enter():
        with pytest.raises(QueueFull):
            gate.check()
    gate.check()
    gate.close()
    with pytest.raises(ShuttingDown):
        gate.check()


async def test_the_room_that_is_left_is_what_may_still_come() -> None:
    admission = gate(queue=2)
    assert (admission.free_places, admission.max_waiting) == (3, 1)
    guests = [Guest(admission) for _ in range(3)]
    await asyncio.sleep(0)
    assert admission.free_places == 0
    assert admission.full
    for guest in guests:
        await guest.go()
    assert admission.free_places == 3


def test_a_job_that_waits_holds_no_worker() -> None:
    occupancy = WorkerUsage()
    with occupancy.job():
        assert occupancy.statistics() == {"busy": 0}


def test_a_job_holds_one_worker_however_often_it_is_tried() -> None:
    occupancy = WorkerUsage()
    with occupancy.job() as taken, occupancy.job() as other:
        taken()
        taken()
        assert occupancy.statistics() == {"busy": 1}
        other()
        assert occupancy.statistics() == {"busy": 2}
    assert occupancy.statistics() == {"busy": 0}


def test_a_job_that_fails_lets_go() -> None:
    occupancy = WorkerUsage()
    with suppress(LookupError), occupancy.job() as taken:
        taken()
        raise LookupError
    assert occupancy.statistics() == {"busy": 0}
