"""A supervisor of background tasks that restarts them without a pause."""

from __future__ import annotations

import asyncio

from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor

_LONG_S = 600


class Restarts:
    """Records the restarts of the tasks that its `supervisor` runs."""

    def __init__(self) -> None:
        self.tasks: list[BackgroundTask] = []
        self.supervisor = TaskSupervisor(self.tasks.append, sleep=_yield_to_the_loop)


async def _yield_to_the_loop(seconds: float) -> None:
    # No test waits for what runs every ten minutes. Repeated without a pause, full garbage
    # collections would take most of the time of a test.
    await asyncio.sleep(seconds if seconds >= _LONG_S else 0)
