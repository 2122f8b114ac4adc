"""Admission: the gate before the workers, with a bounded queue and a bounded wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from proxy.errors import QueueFull, ShuttingDown
from proxy.settings import WorkerSettings


class Admission:
    """Lets as many jobs in as there are workers; a bounded number waits, first come, first in."""

    def __init__(
        self, settings: WorkerSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` gives seconds and is only compared with itself."""
        self._settings = settings
        self._clock = clock
        self._places = asyncio.Semaphore(settings.processes)
        self._waiting = 0
        self._running = 0
        self._closed = False
        self._rejections: Counter[str] = Counter()

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[float]:
        """Hold a place at the workers for the length of the block; gives the seconds waited.

        Raises:
            QueueFull: the queue has no room, or the wait grew too long.
            ShuttingDown: no more renders are begun.
        """
        arrived = self._clock()
        await self._wait()
        self._running += 1
        try:
            yield self._clock() - arrived
        finally:
            self._running -= 1
            self._places.release()

    async def _wait(self) -> None:
        if self._closed:
            raise self._reject("shutdown", ShuttingDown("the server is stopping"))
        if self._places.locked() and self._waiting >= self._settings.max_queue:
            raise self._reject("queue_full", QueueFull("too many pictures are waiting"))
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.max_queue_wait_s):
                await self._places.acquire()
        except TimeoutError:
            error = QueueFull("the picture waited too long for a worker")
            raise self._reject("queue_wait", error) from None
        finally:
            self._waiting -= 1

    def _reject(self, reason: str, error: QueueFull | ShuttingDown) -> QueueFull | ShuttingDown:
        self._rejections[reason] += 1
        error.retry_after_s = self._settings.retry_after_s
        return error

    def close(self) -> None:
        """Let nobody in any more; those who wait or run go on."""
        self._closed = True

    def statistics(self) -> Mapping[str, float]:
        """How many wait and run now, and how many were turned away, by reason."""
        rejected = {f"rejected_{reason}": self._rejections[reason] for reason in REASONS}
        return {"waiting": self._waiting, "running": self._running, **rejected}


REASONS = ("queue_full", "queue_wait", "shutdown")
"""Why a job is turned away."""
