import asyncio
from collections.abc import AsyncIterator
from threading import Event

import pytest

from proxy.runtime.thread_pool import ThreadPool
from tests.support.waiting import eventually


class Slow:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.begun = Event()
        self.may_end = Event()

    def __call__(self) -> str:
        self.begun.set()
        self.may_end.wait()
        return "result"


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
async def threads(slow: Slow) -> AsyncIterator[ThreadPool]:
    pool = ThreadPool("test", count=1, timeout_s=0.05)
    yield pool
    slow.may_end.set()
    await pool.aclose()


async def test_a_result_that_comes_after_the_deadline_is_released(
    threads: ThreadPool, slow: Slow
) -> None:
    results: list[str] = []

    with pytest.raises(TimeoutError):
        await threads.run(slow, release=results.append)
    assert results == []

    slow.may_end.set()
    await eventually(lambda: results == ["result"])


async def test_a_result_that_comes_after_a_cancellation_is_released(
    threads: ThreadPool, slow: Slow
) -> None:
    results: list[str] = []
    task = asyncio.create_task(threads.run(slow, release=results.append))
    await eventually(slow.begun.is_set)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    slow.may_end.set()
    await eventually(lambda: results == ["result"])


async def test_work_that_had_not_begun_is_dropped_at_the_deadline(
    threads: ThreadPool, slow: Slow
) -> None:
    done: list[str] = []
    blocking = threads.submit(slow)

    with pytest.raises(TimeoutError):
        await threads.run(lambda: done.append("run"))

    slow.may_end.set()
    await asyncio.wrap_future(blocking)
    await threads.run(lambda: None)
    assert done == []


async def test_work_to_be_finished_is_done_even_after_the_deadline(
    threads: ThreadPool, slow: Slow
) -> None:
    done: list[str] = []
    threads.submit(slow)

    with pytest.raises(TimeoutError):
        await threads.finish(lambda: done.append("finished"))

    slow.may_end.set()
    await eventually(lambda: done == ["finished"])


async def test_after_the_end_there_is_no_more_work(threads: ThreadPool) -> None:
    await threads.aclose()

    with pytest.raises(OSError, match="have ended"):
        await threads.run(lambda: None)
