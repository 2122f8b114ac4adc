"""Questions that many ask at once are asked in few hops; each gets an answer of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from proxy.runtime.batch_loader import BatchLoader
from proxy.runtime.thread_pool import ThreadPool


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPool]:
    threads = ThreadPool("asked", count=4, timeout_s=5)
    yield threads
    await threads.aclose()


class Hops(ThreadPool):
    """Counts the work that is handed to threads."""

    def __init__(self, *, timeout_s: float = 5) -> None:
        super().__init__("counted", count=4, timeout_s=timeout_s)
        self.taken = 0

    def submit(self, work):  # type: ignore[no-untyped-def]  # as it is there
        self.taken += 1
        return super().submit(work)


async def test_all_who_ask_in_one_turn_share_a_hop() -> None:
    hops = Hops()
    together = BatchLoader(hops, str)
    answers = await asyncio.gather(*(together.load(key) for key in range(50)))
    assert answers == [str(key) for key in range(50)]
    assert hops.taken == 1
    await hops.aclose()


async def test_who_comes_while_two_hops_are_under_way_shares_the_next() -> None:
    hops, release = Hops(), threading.Event()

    def question(key: int) -> int:
        release.wait()
        return key

    together = BatchLoader(hops, question)
    asking = []
    for key in range(10):
        asking.append(asyncio.create_task(together.load(key)))
        await asyncio.sleep(0.001)
    assert hops.taken == 2
    release.set()
    assert await asyncio.gather(*asking) == list(range(10))
    assert hops.taken == 3
    await hops.aclose()


async def test_a_fault_is_that_of_its_key_alone(threads: ThreadPool) -> None:
    def question(key: int) -> int:
        if key == 1:
            raise PermissionError(key)
        return key

    together = BatchLoader(threads, question)
    answers = await asyncio.gather(*map(together.load, range(3)), return_exceptions=True)
    assert (answers[0], answers[2]) == (0, 2)
    assert isinstance(answers[1], PermissionError)


async def test_who_leaves_takes_nobody_along(threads: ThreadPool) -> None:
    together = BatchLoader(threads, str)
    leaving, staying = (asyncio.create_task(together.load(key)) for key in (1, 2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "2"
    assert await together.load(3) == "3"


async def test_a_question_that_hangs_ends_in_time() -> None:
    hops, release = Hops(timeout_s=0.05), threading.Event()
    together: BatchLoader[int, bool] = BatchLoader(hops, lambda _: release.wait())
    with pytest.raises(TimeoutError):
        await together.load(1)
    release.set()
    await hops.aclose()


async def test_a_closed_store_says_so(threads: ThreadPool) -> None:
    await threads.aclose()
    with pytest.raises(OSError, match="have ended"):
        await BatchLoader(threads, str).load(1)


async def test_those_who_gave_up_do_not_pile_up_while_all_hops_hang() -> None:
    hops, release = Hops(timeout_s=0.02), threading.Event()
    together: BatchLoader[int, bool] = BatchLoader(hops, lambda _: release.wait())
    for key in range(20):
        with pytest.raises(TimeoutError):
            await together.load(key)
    assert hops.taken == 2
    assert together.waiting <= 1
    release.set()
    await hops.aclose()
