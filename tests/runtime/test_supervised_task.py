"""Supervised tasks: restarted after errors, ended by cancellation only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
from structlog.testing import capture_logs

from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor, cancel

TASK = BackgroundTask.PURGE_SYNC


class Pauses:
    """Records each pause and returns at once; after ``limit`` pauses it waits forever."""

    def __init__(self, limit: int) -> None:
        self.seconds: list[float] = []
        self.exhausted = asyncio.Event()
        self._limit = limit

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) >= self._limit:
            self.exhausted.set()
            await asyncio.Event().wait()


def failing(times: int, error: BaseException | None = None) -> Callable[[], Awaitable[None]]:
    calls = count()

    async def work() -> None:
        if next(calls) < times:
            raise error or KeyError("unforeseen")

    return work


async def test_an_unforeseen_error_restarts_the_task() -> None:
    await TaskSupervisor(sleep=Pauses(9)).run(TASK, failing(3))


async def test_an_error_is_logged_with_its_traceback_and_the_name_of_the_task() -> None:
    with capture_logs() as logs:
        await TaskSupervisor(sleep=Pauses(9)).run(TASK, failing(1))
    assert [(line["event"], line["task"], line["exc_info"]) for line in logs] == [
        ("background_task_failed", "purge_sync", True)
    ]


async def test_each_restart_is_counted() -> None:
    counted: list[BackgroundTask] = []
    await TaskSupervisor(counted.append, sleep=Pauses(9)).run(TASK, failing(2))
    assert counted == [TASK, TASK]


async def test_the_backoff_doubles_up_to_its_limit() -> None:
    pauses = Pauses(9)
    supervisor = TaskSupervisor(first_backoff_s=1, max_backoff_s=4, sleep=pauses, clock=lambda: 0.0)
    await supervisor.run(TASK, failing(5))
    assert pauses.seconds == [1, 2, 4, 4, 4]


async def test_a_long_run_resets_the_backoff() -> None:
    pauses, ticks = Pauses(9), iter([0, 0, 0, 0, 0, 60, 60])
    supervisor = TaskSupervisor(
        first_backoff_s=1, max_backoff_s=30, sleep=pauses, clock=lambda: float(next(ticks))
    )
    await supervisor.run(TASK, failing(3))
    assert pauses.seconds == [1, 2, 1]


async def test_a_successful_run_resets_the_backoff_of_a_repeated_task() -> None:
    outcomes = iter([KeyError, KeyError, None, KeyError])

    async def work() -> None:
        if error := next(outcomes):
            raise error

    pauses = Pauses(4)
    supervisor = TaskSupervisor(first_backoff_s=1, sleep=pauses, clock=lambda: 0.0)
    async with supervisor.running(TASK, work, every_s=60):
        await pauses.exhausted.wait()
    assert pauses.seconds == [1, 2, 60, 1]


async def test_the_first_run_waits_if_that_is_wanted() -> None:
    pauses = Pauses(9)
    await TaskSupervisor(sleep=pauses).run(TASK, failing(0), first_after_s=5)
    assert pauses.seconds == [5]


async def test_the_end_of_the_block_cancels_the_task_and_waits_for_it() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with TaskSupervisor().running(TASK, work) as task:
        await began.wait()
    assert ended.is_set()
    assert task.cancelled()


async def test_a_cancellation_is_no_failure() -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        task = TaskSupervisor().start(TASK, work)
        await began.wait()
        await cancel(task)
    assert task.cancelled()
    assert not logs


async def test_the_cancellation_of_something_else_restarts_the_task() -> None:
    await TaskSupervisor(sleep=Pauses(9)).run(TASK, failing(1, asyncio.CancelledError()))


async def test_a_request_to_exit_is_not_caught() -> None:
    with pytest.raises(SystemExit):
        await TaskSupervisor(sleep=Pauses(9)).run(TASK, failing(1, SystemExit(1)))


async def test_a_task_that_another_process_runs_ends_at_once() -> None:
    def fails() -> Awaitable[object]:
        raise AssertionError

    await TaskSupervisor(elsewhere=frozenset({TASK})).run(TASK, fails, every_s=1)
    await TaskSupervisor(elsewhere=frozenset({TASK})).start(TASK, fails)
