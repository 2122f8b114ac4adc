"""Admission: a bounded number at work, a bounded number waiting, the rest turned away."""

import asyncio

import pytest

from proxy.errors import QueueFull, ShuttingDown
from proxy.settings import WorkerSettings
from proxy.workers.admission import Admission


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


async def test_one_works_one_waits_and_the_third_is_turned_away() -> None:
    admission = gate()
    first = Guest(admission)
    await first.inside.wait()
    second = Guest(admission)
    await asyncio.sleep(0)
    assert admission.statistics()["waiting"] == 1
    with pytest.raises(QueueFull) as refused:
        async with admission.enter():
            pass
    assert refused.value.retry_after_s == 7
    await first.go()
    await second.inside.wait()
    await second.go()
    assert admission.statistics() == {
        "waiting": 0,
        "running": 0,
        "rejected_queue_full": 1,
        "rejected_queue_wait": 0,
        "rejected_shutdown": 0,
    }


async def test_an_idle_worker_takes_a_job_also_where_nothing_may_wait() -> None:
    async with gate(queue=0).enter() as waited_s:
        assert waited_s >= 0


async def test_a_wait_that_grows_too_long_ends() -> None:
    admission = gate(wait_s=0.01)
    first = Guest(admission)
    await first.inside.wait()
    with pytest.raises(QueueFull, match="too long"):
        async with admission.enter():
            pass
    await first.go()
    assert admission.statistics()["rejected_queue_wait"] == 1


async def test_one_who_leaves_the_queue_gives_up_his_place() -> None:
    admission = gate()
    first = Guest(admission)
    await first.inside.wait()
    leaving = Guest(admission)
    await asyncio.sleep(0)
    leaving.task.cancel()
    await asyncio.gather(leaving.task, return_exceptions=True)
    assert admission.statistics()["waiting"] == 0
    await first.go()
    async with admission.enter():
        pass


async def test_the_seconds_waited_are_told() -> None:
    now = 100.0
    admission = Admission(WorkerSettings(count=1), clock=lambda: now)
    first = Guest(admission)
    await first.inside.wait()

    async def enter() -> float:
        async with admission.enter() as waited_s:
            return waited_s

    waiting = asyncio.create_task(enter())
    await asyncio.sleep(0)
    now = 102.5
    await first.go()
    assert await waiting == 2.5


async def test_a_closed_gate_lets_nobody_in() -> None:
    admission = gate()
    admission.close()
    with pytest.raises(ShuttingDown):
        async with admission.enter():
            pass
