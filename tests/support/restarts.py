"""A supervisor of background tasks that does not wait, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor


class Restarts:
    """Records the restarts of the tasks that its `supervisor` runs."""

    def __init__(self) -> None:
        self.tasks: list[BackgroundTask] = []
        self.supervisor = TaskSupervisor(self.tasks.append, sleep=_yield_to_the_loop)


async def _yield_to_the_loop(seconds: float) -> None:
    del seconds
    await asyncio.sleep(0)


async def holds(condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
    """Return when a condition holds that other tasks of this loop bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition has no event of its own
            await asyncio.sleep(0)
