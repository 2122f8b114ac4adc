"""A pool that starts with its first job and ends when it is idle."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest

from proxy.domain.errors import ConfigurationError, ShuttingDown
from proxy.rendering.pool.on_demand import OnDemandPool
from tests.support.waiting import eventually


class Pool:
    """Counts starts and ends."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fault = ""

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        self.events.append("start")
        if self.fault:
            raise ConfigurationError([self.fault])
        return self

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.events.append("end")


def on_demand(pool: Pool, *, idle_s: float) -> OnDemandPool:
    return OnDemandPool(pool, idle_s=idle_s)  # type: ignore[arg-type]


async def test_concurrent_jobs_share_one_start_and_an_idle_pool_ends() -> None:
    pool = Pool()
    tested = on_demand(pool, idle_s=0.01)
    assert pool.events == []

    async def job() -> None:
        async with tested.running():
            assert pool.events == ["start"]

    await asyncio.gather(job(), job(), job())
    await eventually(lambda: pool.events == ["start", "end"])
    async with tested.running():
        assert pool.events == ["start", "end", "start"]
    await tested.aclose()


async def test_a_pool_does_not_end_while_a_job_runs() -> None:
    pool = Pool()
    tested = on_demand(pool, idle_s=0)
    async with tested.running():
        async with tested.running():
            pass
        # The timer of the inner job, and the task that it starts, have run by then.
        for _ in range(10):
            await asyncio.sleep(0)
        assert pool.events == ["start"]
    await eventually(lambda: pool.events == ["start", "end"])


async def test_a_failed_start_is_tried_again_by_the_next_job() -> None:
    pool = Pool()
    tested = on_demand(pool, idle_s=60)
    pool.fault = "no model"
    with pytest.raises(ConfigurationError):
        async with tested.running():
            pass
    pool.fault = ""
    async with tested.running():
        assert pool.events == ["start", "start"]
    await tested.aclose()


async def test_a_closed_pool_accepts_no_job() -> None:
    pool = Pool()
    tested = on_demand(pool, idle_s=60)
    await tested.aclose()
    with pytest.raises(ShuttingDown):
        async with tested.running():
            pass
