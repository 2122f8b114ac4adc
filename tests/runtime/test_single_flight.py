"""Request coalescing: one run for concurrent calls with the same key."""

from __future__ import annotations

import asyncio

from proxy.domain.errors import QueueFull
from proxy.runtime.single_flight import SharedResults


async def test_a_result_is_computed_once_for_concurrent_calls() -> None:
    shared: SharedResults[int] = SharedResults()
    times = 0

    async def work() -> int:
        nonlocal times
        times += 1
        await asyncio.sleep(0)
        return 7

    assert await asyncio.gather(*(shared.result("a", work) for _ in range(5))) == [7] * 5
    assert await shared.result("a", work) == 7
    assert times == 2
    await shared.aclose()


async def test_an_error_reaches_all_callers_and_is_not_remembered() -> None:
    shared: SharedResults[int] = SharedResults()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise QueueFull("full")

    async def succeed() -> int:
        return 1

    asking = (shared.result("a", fail) for _ in range(3))
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in results] == [QueueFull] * 3
    assert await shared.result("a", succeed) == 1
    await shared.aclose()


async def test_a_result_that_is_known_already_is_not_shared() -> None:
    shared: SharedResults[int] = SharedResults()
    begun = 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        if begun == 1:
            # Runs before the callbacks of this task, which remove it from the table.
            asyncio.get_running_loop().call_soon(call_again)
        return begun

    def call_again() -> None:
        call = shared.result("a", work)
        call.send(None)
        call.close()

    assert await shared.result("a", work) == 1
    await asyncio.sleep(0)
    assert begun == 2
    await shared.aclose()
