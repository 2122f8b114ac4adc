"""Admission: the gate before the workers, with a bounded queue and a bounded wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from proxy.domain.errors import QueueFull, ShuttingDown
from proxy.settings import WorkerSettings


class Admission:
    """Lets jobs in to the workers; a bounded number waits, first come, first in.

    Of those that wait, one for each worker does so inside: made ready, so that no worker waits for
    its next order.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        ready = min(settings.processes, settings.max_queue)
        self._settings = settings
        self._places = asyncio.Semaphore(settings.processes + ready)
        self._capacity = settings.processes + settings.max_queue
        self.max_waiting = settings.max_queue - ready
        """How many may wait beyond those at the workers."""
        self._waiting = 0
        self._inside = 0
        self._closed = False
        self._rejections: Counter[str] = Counter()

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Hold a place at the workers for the length of the block.

        Raises:
            QueueFull: the queue has no room, or the wait grew too long.
            ShuttingDown: no more renders are begun.
        """
        await self._wait()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._places.release()

    @property
    def full(self) -> bool:
        """Whether whoever comes now is turned away."""
        return self._places.locked() and self._waiting >= self.max_waiting

    @property
    def room(self) -> int:
        """How many may still come."""
        return self._capacity - self._inside - self._waiting

    def turn_away(self) -> QueueFull | ShuttingDown:
        """What somebody is told who is not even listened to, as the server is late with all."""
        error = QueueFull("more is asked for than can be looked at")
        return self._reject("pressure", error)

    def check(self) -> None:
        """Raise what `enter` would raise at once; for a look before anything is spent on a job."""
        if self._closed:
            raise self._reject("shutdown", ShuttingDown("the server is stopping"))
        if self.full:
            raise self._reject("queue_full", QueueFull("too many pictures are waiting"))

    async def _wait(self) -> None:
        self.check()
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
        """How many wait and are inside now, and how many were turned away, by reason."""
        rejected = {f"rejected_{reason}": self._rejections[reason] for reason in REASONS}
        return {"waiting": self._waiting, "inside": self._inside, **rejected}


REASONS = ("queue_full", "queue_wait", "shutdown", "pressure")
"""Why a job is turned away."""


class WorkerUsage:
    """Counts the workers that one kind of work occupies, for a pool that several kinds share."""

    def __init__(self) -> None:
        self._busy = 0

    @contextmanager
    def job(self) -> Iterator[Callable[[], None]]:
        """Context manager for one job.

        Call the yielded function when a worker starts it; later calls have no effect.
        """
        started = False

        def start() -> None:
            nonlocal started
            self._busy += not started
            started = True

        try:
            yield start
        finally:
            self._busy -= started

    def statistics(self) -> Mapping[str, float]:
        """Return the number of occupied workers."""
        return {"busy": self._busy}
