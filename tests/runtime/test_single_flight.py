"""Request coalescing: results by key, and batches of blocking look-ups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from proxy.domain.errors import QueueFull
from proxy.runtime.single_flight import BatchLoader, SharedResults
from proxy.runtime.thread_pool import ThreadPool
from tests.support.waiting import eventually

T = TypeVar("T")


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


class CountedThreads(ThreadPool):
    """Counts the jobs that are submitted."""

    def __init__(self, *, timeout_s: float = 5) -> None:
        super().__init__("counted", count=4, timeout_s=timeout_s)
        self.jobs = 0

    def run(self, work: Callable[[], T], **options: Any) -> asyncio.Future[T]:
        self.jobs += 1
        return super().run(work, **options)


@pytest.fixture
async def threads() -> AsyncIterator[CountedThreads]:
    threads = CountedThreads()
    yield threads
    await threads.aclose()


@pytest.fixture
async def hanging() -> AsyncIterator[tuple[CountedThreads, threading.Event]]:
    """Threads with a short time-out, and the event that ends their look-ups."""
    threads, release = CountedThreads(timeout_s=0.05), threading.Event()
    yield threads, release
    release.set()
    await threads.aclose()


async def test_calls_in_one_iteration_of_the_loop_share_a_thread_job(
    threads: CountedThreads,
) -> None:
    loader = BatchLoader(threads, str)
    values = await asyncio.gather(*(loader.load(key) for key in range(50)))
    assert values == [str(key) for key in range(50)]
    assert threads.jobs == 1


async def test_calls_made_while_two_batches_run_share_the_next(threads: CountedThreads) -> None:
    release = threading.Event()

    def look_up(key: int) -> int:
        release.wait()
        return key

    loader = BatchLoader(threads, look_up)
    calls = [asyncio.create_task(loader.load(0))]
    await eventually(lambda: threads.jobs == 1)
    calls.append(asyncio.create_task(loader.load(1)))
    await eventually(lambda: threads.jobs == 2)
    calls += [asyncio.create_task(loader.load(key)) for key in range(2, 10)]
    await asyncio.sleep(0)
    assert threads.jobs == 2
    release.set()
    assert await asyncio.gather(*calls) == list(range(10))
    assert threads.jobs == 3


async def test_an_error_fails_its_key_only(threads: CountedThreads) -> None:
    def look_up(key: int) -> int:
        if key == 1:
            raise PermissionError(key)
        return key

    loader = BatchLoader(threads, look_up)
    first, failed, last = await asyncio.gather(*map(loader.load, range(3)), return_exceptions=True)
    assert (first, last) == (0, 2)
    assert isinstance(failed, PermissionError)


async def test_the_cancellation_of_a_call_does_not_affect_the_others(
    threads: CountedThreads,
) -> None:
    loader = BatchLoader(threads, str)
    cancelled, other = (asyncio.create_task(loader.load(key)) for key in (1, 2))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await other == "2"
    assert await loader.load(3) == "3"


async def test_a_look_up_that_hangs_times_out(
    hanging: tuple[CountedThreads, threading.Event],
) -> None:
    threads, release = hanging
    loader: BatchLoader[int, bool] = BatchLoader(threads, lambda _: release.wait())
    with pytest.raises(TimeoutError):
        await loader.load(1)


async def test_after_the_end_of_the_threads_a_call_is_an_error(threads: CountedThreads) -> None:
    await threads.aclose()
    with pytest.raises(OSError, match="have ended"):
        await BatchLoader(threads, str).load(1)


async def test_a_call_waits_no_longer_than_the_time_limit_for_its_turn(
    hanging: tuple[CountedThreads, threading.Event],
) -> None:
    threads, release = hanging
    loader: BatchLoader[int, bool] = BatchLoader(threads, lambda _: release.wait())
    calls = [asyncio.create_task(loader.load(0))]
    for key in (1, 2):
        # The batch of the call before begins; the third has to wait for the first two.
        for _ in range(3):
            await asyncio.sleep(0)
        calls.append(asyncio.create_task(loader.load(key)))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in results] == [TimeoutError] * 3
