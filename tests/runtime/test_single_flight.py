"""Request coalescing by key."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from proxy.domain.errors import QueueFull
from proxy.runtime.single_flight import SharedResults, SingleFlight


class Work:
    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.go = asyncio.Event()

    def launch(self) -> tuple[str, Coroutine[Any, Any, None]]:
        self.begun += 1
        return f"work {self.begun}", self._run()

    async def _run(self) -> None:
        await self.go.wait()
        self.ended += 1


async def test_concurrent_calls_with_one_key_share_the_work() -> None:
    flight: SingleFlight[str] = SingleFlight()
    work = Work()
    answers = [flight.join("key", work.launch) for _ in range(500)]
    assert work.begun == 1
    assert answers == [("work 1", True)] + [("work 1", False)] * 499
    work.go.set()
    await flight.drain()
    assert flight.statistics() == {"under_way": 0, "joined": 499}


async def test_other_keys_start_work_of_their_own() -> None:
    flight: SingleFlight[str] = SingleFlight()
    work = Work()
    assert flight.join("a", work.launch) != flight.join("b", work.launch)
    await flight.aclose()


async def test_a_call_after_the_end_starts_new_work() -> None:
    flight: SingleFlight[str] = SingleFlight()
    work = Work()
    work.go.set()
    flight.join("key", work.launch)
    await flight.drain()
    assert flight.join("key", work.launch) == ("work 2", True)
    await flight.drain()


async def test_work_that_raises_releases_its_key() -> None:
    flight: SingleFlight[None] = SingleFlight()

    async def fail() -> None:
        raise LookupError

    flight.join("key", lambda: (None, fail()))
    await flight.drain()
    assert flight.statistics()["under_way"] == 0


async def test_closing_cancels_running_work() -> None:
    flight: SingleFlight[str] = SingleFlight()
    work = Work()
    flight.join("key", work.launch)
    await asyncio.sleep(0)
    await flight.aclose()
    assert (work.ended, flight.statistics()["under_way"]) == (0, 0)


async def test_released_work_goes_on_and_is_not_joined() -> None:
    flight: SingleFlight[str] = SingleFlight()
    work = Work()
    failed, _ = flight.join("key", work.launch)
    flight.release("key", failed)
    assert flight.join("key", work.launch) == ("work 2", True)
    flight.release("key", failed)
    assert flight.join("key", work.launch) == ("work 2", False)
    work.go.set()
    await flight.drain()
    assert work.ended == 2


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
