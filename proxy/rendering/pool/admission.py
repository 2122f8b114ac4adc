"""The bounded queue in front of the workers, and counters of the workers that are in use."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from proxy.domain.errors import CapacityError, QueueFull, ShuttingDown
from proxy.settings import WorkerSettings

REASONS = ("queue_full", "queue_wait", "shutdown", "pressure")
"""Reasons for a rejection."""


class Admission:
    """Limits concurrent jobs and the length of the queue, which is first in, first out.

    One more job per worker is admitted than can run: it is prepared while it waits, so a worker
    that becomes free starts it at once.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        # A prepared job has an open source and a pipe, so their number is limited, too.
        prepared = min(settings.processes, settings.max_queue)
        self._settings = settings
        self._places = asyncio.Semaphore(settings.processes + prepared)
        self._capacity = settings.processes + settings.max_queue
        self.max_waiting = settings.max_queue - prepared
        """Limit of the jobs that wait for admission."""
        self._waiting = 0
        self._admitted = 0
        self._closed = False
        self._rejections: Counter[str] = Counter()

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Context manager: wait for admission, and hold the place for the block.

        Raises:
            QueueFull: the queue is full, or the wait exceeded ``workers.max_queue_wait_s``.
            ShuttingDown: the server is stopping.
        """
        self.check()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.max_queue_wait_s):
                await self._places.acquire()
        except TimeoutError:
            error = QueueFull("the image waited too long for a worker")
            raise self._rejected("queue_wait", error) from None
        finally:
            self._waiting -= 1
        # Outside the `try` above: a failed wait must not release a place.
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1
            self._places.release()

    @property
    def full(self) -> bool:
        """Return whether the next job would be rejected."""
        return self._places.locked() and self._waiting >= self.max_waiting

    @property
    def free_places(self) -> int:
        """Number of jobs that would still be accepted."""
        return self._capacity - self._admitted - self._waiting

    def shed(self) -> CapacityError:
        """Count a request that is rejected because the server is overloaded; return its error."""
        return self._rejected("pressure", QueueFull("the server is overloaded"))

    def check(self) -> None:
        """Raise at once what `enter` would raise, before work is spent on a job."""
        if self._closed:
            raise self._rejected("shutdown", ShuttingDown("the server is stopping"))
        if self.full:
            raise self._rejected("queue_full", QueueFull("too many images are waiting"))

    def _rejected(self, reason: str, error: CapacityError) -> CapacityError:
        self._rejections[reason] += 1
        error.retry_after_s = self._settings.retry_after_s
        return error

    def close(self) -> None:
        """Reject new jobs; jobs that wait or run are not affected."""
        self._closed = True

    def statistics(self) -> Mapping[str, float]:
        """Return the jobs that wait and that are admitted, and the rejections by reason."""
        rejected = {f"rejected_{reason}": self._rejections[reason] for reason in REASONS}
        return {"waiting": self._waiting, "inside": self._admitted, **rejected}


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
