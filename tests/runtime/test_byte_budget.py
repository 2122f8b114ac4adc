"""The limit of bytes that tasks hold together."""

from __future__ import annotations

import asyncio

import pytest

from proxy.runtime.byte_budget import ByteBudget
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


async def test_what_fits_is_granted_at_once() -> None:
    budget = ByteBudget(10)
    await budget.take(4)
    assert budget.try_take(6)
    assert not budget.try_take(1)
    assert budget.statistics() == {"held_bytes": 10, "waiting": 0}


async def test_what_does_not_fit_waits_in_the_order_of_the_calls() -> None:
    budget, order = ByteBudget(10), list[int]()
    await budget.take(10)

    async def taker(count: int) -> None:
        await budget.take(count)
        order.append(count)

    tasks = [asyncio.create_task(taker(count)) for count in (8, 1, 1)]
    await eventually(lambda: budget.statistics()["waiting"] == len(tasks))
    # A small one must not pass a large one again and again.
    assert not budget.try_take(1)
    budget.give(5)
    assert order == []
    budget.give(5)
    await asyncio.gather(*tasks)
    assert order == [8, 1, 1]
    assert budget.statistics() == {"held_bytes": 10, "waiting": 0}


async def test_more_than_the_limit_is_granted_alone() -> None:
    budget = ByteBudget(10)
    assert budget.try_take(50)
    assert not budget.try_take(1)
    budget.give(50)
    assert budget.try_take(1)
    assert not budget.try_take(50)


async def test_a_cancelled_caller_leaves_its_place_to_the_next() -> None:
    budget = ByteBudget(10)
    await budget.take(6)
    large = asyncio.create_task(budget.take(10))
    small = asyncio.create_task(budget.take(4))
    await eventually(lambda: budget.statistics()["waiting"] == 2)
    large.cancel()
    await small
    assert large.cancelled()
    assert budget.statistics() == {"held_bytes": 10, "waiting": 0}


async def test_a_caller_that_is_cancelled_when_it_is_granted_holds_nothing() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    waiting = asyncio.create_task(budget.take(10))
    await eventually(lambda: budget.statistics()["waiting"] == 1)
    budget.give(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.statistics() == {"held_bytes": 0, "waiting": 0}


async def test_what_is_added_counts_above_the_limit() -> None:
    budget = ByteBudget(10)
    await budget.take(8)
    budget.add(5)
    waiting = asyncio.create_task(budget.take(4))
    await eventually(lambda: budget.statistics()["waiting"] == 1)
    budget.give(5)
    assert budget.statistics() == {"held_bytes": 8, "waiting": 1}
    budget.give(8)
    await waiting
