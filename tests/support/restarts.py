"""A supervisor of background tasks that restarts them without a pause."""

from __future__ import annotations

import asyncio

from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor


class Restarts:
    """Records the restarts of the tasks that its `supervisor` runs."""

    def __init__(self) -> None:
        self.tasks: list[BackgroundTask] = []
        self.supervisor = TaskSupervisor(self.tasks.append, sleep=_yield_to_the_loop)


async def _yield_to_the_loop(seconds: float) -> None:
    del seconds
    await asyncio.sleep(0)
