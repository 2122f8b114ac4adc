"""Deadlines of steps: what is late is ended; what cannot be is left behind, and counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.domain.errors import SourceUnavailable, StepOverdue
from proxy.domain.pending_image import Step
from proxy.ingest.step_retry import StepTimeouts
from proxy.runtime.daemon_thread import in_daemon_thread
from proxy.settings import IngestSettings

FILE, RENDER = Step.RETRIEVE_FILE, Step.RESIZE_OPTIMIZE


def deadlines(*, step_s: float = 0.05, render_s: float = 30) -> StepTimeouts:
    settings = IngestSettings(step_timeout_s=step_s, render_timeout_s=render_s)
    return StepTimeouts(settings, grace_s=0.05)


class Hang:
    """Steps that hang as one does in a dead file system, until they are let go."""

    def __init__(self, fifo: Path) -> None:
        os.mkfifo(fifo)
        self._fifo = fifo

    async def step(self) -> None:
        """Opens the FIFO, and waits for it whoever cancels it."""
        await in_daemon_thread(self._fifo.read_bytes)

    async def let_go(self, until: Callable[[], bool]) -> None:
        """Have the calls come back."""
        async with asyncio.timeout(20):
            while not until():
                with suppress(OSError):
                    os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
                await asyncio.sleep(0)


@pytest.fixture
def hang(tmp_path: Path) -> Hang:
    return Hang(tmp_path / "fifo")


async def nothing() -> None:
    """A step that has nothing to do."""


async def test_a_step_in_time_passes() -> None:
    await deadlines().run(FILE, nothing())


async def test_what_a_step_raises_is_raised() -> None:
    async def fail() -> None:
        raise SourceUnavailable("no storage")

    with pytest.raises(SourceUnavailable, match="no storage"):
        await deadlines().run(FILE, fail())


async def test_a_step_that_is_late_is_ended_and_tidies_up() -> None:
    tidied = asyncio.Event()

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tidied.set()

    late_steps = deadlines()
    with pytest.raises(StepOverdue, match=r"did not finish within 0\.05 s"):
        await late_steps.run(FILE, late())
    assert tidied.is_set()
    assert late_steps.statistics() == {"hanging": 0}


async def test_a_render_has_a_time_of_its_own() -> None:
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, done.set)

    async def render() -> None:
        await done.wait()

    await deadlines().run(RENDER, render())
    with pytest.raises(StepOverdue):
        await deadlines(step_s=30, render_s=0.01).run(RENDER, asyncio.Event().wait())


async def test_a_step_that_cannot_be_ended_is_counted_until_it_comes_back(hang: Hang) -> None:
    steps = deadlines()
    with pytest.raises(StepOverdue):
        await steps.run(FILE, hang.step())
    assert steps.statistics() == {"hanging": 1}
    assert not steps.too_many_hanging
    await hang.let_go(lambda: steps.statistics() == {"hanging": 0})


async def test_of_those_that_hang_there_may_be_a_few(hang: Hang) -> None:
    steps = deadlines()
    asked = [steps.run(FILE, hang.step()) for _ in range(4)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in told} == {StepOverdue}
    assert steps.too_many_hanging
    await hang.let_go(lambda: not steps.too_many_hanging)
    await hang.let_go(lambda: steps.statistics() == {"hanging": 0})


async def test_who_is_cancelled_himself_ends_the_step_before_he_goes(hang: Hang) -> None:
    steps = deadlines(step_s=30)
    running = asyncio.create_task(steps.run(FILE, hang.step()))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert steps.statistics() == {"hanging": 1}
    await steps.aclose()
    assert steps.statistics() == {"hanging": 0}
    await hang.let_go(lambda: True)


async def test_in_the_end_nothing_is_waited_for(hang: Hang) -> None:
    steps = deadlines()
    with pytest.raises(StepOverdue):
        await steps.run(FILE, hang.step())
    await steps.aclose()
    assert steps.statistics() == {"hanging": 0}
