"""The loop of the ingest worker."""

from __future__ import annotations

import asyncio
from typing import cast

from proxy.ingest.worker_loop import WorkerLoop, running_worker
from proxy.runtime.supervised_task import BackgroundTask
from tests.support.restarts import Restarts, holds


class FailingLoop:
    """Fails in its first run, and waits in later ones until it is stopped."""

    def __init__(self) -> None:
        self.runs = 0
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise LookupError("unforeseen")
        await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()


async def test_an_unforeseen_error_restarts_the_worker() -> None:
    loop, restarts = FailingLoop(), Restarts()
    async with running_worker(
        cast("WorkerLoop", loop), drain_s=5, supervisor=restarts.supervisor
    ) as task:
        await holds(lambda: loop.runs > 1)
        assert not task.done()
    assert task.done()
    assert restarts.tasks == [BackgroundTask.INGEST_WORKER]
