"""Time limits of steps, and which errors are retried."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.domain.errors import (
    MainApiRefused,
    RenderFault,
    RenderTimeout,
    SmartserveError,
    SourceQuarantined,
    SourceUnavailable,
    StepOverdue,
    UploadGone,
)
from proxy.domain.upload import Step
from proxy.ingest.step_retry import StepTimeouts, failure_reason, is_retried_later
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.settings import IngestSettings
from tests.support.waiting import eventually

FILE, RENDER = Step.RETRIEVE_FILE, Step.RESIZE_OPTIMIZE


def timeouts(*, step_s: float = 0.05, render_s: float = 30) -> StepTimeouts:
    settings = IngestSettings(step_timeout_s=step_s, render_timeout_s=render_s)
    return StepTimeouts(settings, grace_s=0.05)


class Hang:
    """Steps that hang as in a dead file system until `release`."""

    def __init__(self, fifo: Path) -> None:
        os.mkfifo(fifo)
        self._fifo = fifo
        self.started = asyncio.Event()

    async def step(self) -> None:
        """Open a FIFO, which blocks its thread even after a cancellation."""
        self.started.set()
        await in_daemon_thread(self._fifo.read_bytes)

    async def release(self, until: Callable[[], bool]) -> None:
        """Let the blocked calls return."""

        def released() -> bool:
            with suppress(OSError):
                os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
            return until()

        await eventually(released)


@pytest.fixture
def hang(tmp_path: Path) -> Hang:
    return Hang(tmp_path / "fifo")


async def nothing() -> None:
    """Do nothing."""


async def test_a_step_within_its_limit_passes() -> None:
    await timeouts().run(FILE, nothing())


async def test_an_error_of_a_step_is_raised() -> None:
    async def fail() -> None:
        raise SourceUnavailable("no storage")

    with pytest.raises(SourceUnavailable, match="no storage"):
        await timeouts().run(FILE, fail())


async def test_an_overdue_step_is_cancelled_and_cleans_up() -> None:
    tidied = asyncio.Event()

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tidied.set()

    late_steps = timeouts()
    with pytest.raises(StepOverdue, match=r"did not finish within 0\.05 s"):
        await late_steps.run(FILE, late())
    assert tidied.is_set()
    assert late_steps.statistics() == {"hanging": 0}


async def test_renders_have_their_own_limit() -> None:
    done, steps = asyncio.Event(), timeouts(step_s=0.01)
    render = asyncio.create_task(steps.run(RENDER, done.wait()))
    with pytest.raises(StepOverdue):
        await steps.run(FILE, asyncio.Event().wait())
    assert not render.done()
    done.set()
    await render
    with pytest.raises(StepOverdue):
        await timeouts(step_s=30, render_s=0.01).run(RENDER, asyncio.Event().wait())


async def test_a_hanging_step_is_counted_until_it_returns(hang: Hang) -> None:
    steps = timeouts()
    with pytest.raises(StepOverdue):
        await steps.run(FILE, hang.step())
    assert steps.statistics() == {"hanging": 1}
    assert not steps.too_many_hanging
    await hang.release(lambda: steps.statistics() == {"hanging": 0})


async def test_with_four_hanging_steps_no_other_may_start(hang: Hang) -> None:
    steps = timeouts()
    asked = [steps.run(FILE, hang.step()) for _ in range(4)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in told} == {StepOverdue}
    assert steps.too_many_hanging
    await hang.release(lambda: not steps.too_many_hanging)
    await hang.release(lambda: steps.statistics() == {"hanging": 0})


async def test_a_cancelled_caller_cancels_the_step_first(hang: Hang) -> None:
    steps = timeouts(step_s=30)
    running = asyncio.create_task(steps.run(FILE, hang.step()))
    await hang.started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert steps.statistics() == {"hanging": 1}
    await steps.aclose()
    assert steps.statistics() == {"hanging": 0}
    await hang.release(lambda: True)


async def test_closing_abandons_hanging_steps(hang: Hang) -> None:
    steps = timeouts()
    with pytest.raises(StepOverdue):
        await steps.run(FILE, hang.step())
    await steps.aclose()
    assert steps.statistics() == {"hanging": 0}


def test_a_rejected_callback_is_retried_later_and_a_rejected_download_is_not() -> None:
    refused = MainApiRefused("400")
    assert is_retried_later(Step.UPDATE_CALLBACK, refused)
    assert not is_retried_later(Step.RETRIEVE_FILE, refused)


@pytest.mark.parametrize("step", [Step.RETRIEVE_FILE, Step.UPDATE_CALLBACK])
@pytest.mark.parametrize(
    "error",
    [SourceQuarantined("q"), RenderTimeout("t"), RenderFault("f"), UploadGone("404")],
)
def test_an_ambiguous_error_is_retried_three_times(step: Step, error: SmartserveError) -> None:
    tried = [is_retried_later(step, error, retries=times) for times in range(5)]
    assert tried == [True, True, True, False, False]


def test_a_reason_contains_the_message_of_the_system() -> None:
    error = SourceUnavailable("cannot be written")
    error.__cause__ = OSError(28, "No space left on device")
    told = failure_reason(Step.RETRIEVE_FILE, error)
    assert told == "retrieve_file: cannot be written (No space left on device)"
