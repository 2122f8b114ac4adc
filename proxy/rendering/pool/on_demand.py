"""A pool of worker processes that runs only while it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.domain.errors import ShuttingDown
from proxy.rendering.pool.pool import WorkerPool


class OnDemandPool:
    """Starts a pool for its first job, and ends it after ``idle_s`` without one."""

    def __init__(self, pool: WorkerPool, *, idle_s: float) -> None:
        self.pool = pool
        self._idle_s = idle_s
        self._starting = asyncio.Lock()
        self._users = 0
        self._runs = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[WorkerPool]:
        """Context manager for a job: the pool runs until its end.

        Raises:
            ConfigurationError: no process started.
            ShuttingDown: it is closed.
        """
        self._users += 1
        try:
            async with self._starting:
                if self._closed:
                    raise ShuttingDown("the server is stopping")
                if not self._runs:
                    await self.pool.__aenter__()
                    self._runs = True
            yield self.pool
        finally:
            self._users -= 1
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._end_later)

    def _end_later(self) -> None:
        self._ending = asyncio.create_task(self._end_if_idle())

    async def _end_if_idle(self) -> None:
        async with self._starting:
            # A job that has begun meanwhile sets the timer again at its end.
            if self._runs and not self._users:
                self._runs = False
                await self.pool.aclose()

    async def aclose(self) -> None:
        """End the processes; cancel the jobs before, as a start may take long."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        async with self._starting:
            self._runs = False
            await self.pool.aclose()
