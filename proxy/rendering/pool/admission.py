"""The gates before the workers: a bounded queue, and a cache of images that failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cachetools import LRUCache

from proxy.domain.errors import (
    CapacityError,
    Overloaded,
    QueueFull,
    RenderError,
    RenderFault,
    RenderTimeout,
    ShuttingDown,
    SmartserveError,
    SourceQuarantined,
)
from proxy.rendering.pool.worker_start import WorkerDied
from proxy.settings import WorkerSettings

REASONS = ("queue_full", "queue_wait", "shutdown", "pressure")
"""Reasons for a rejection."""

_MAX_FAILURES = 10_000
_MAX_BACKOFF_S = 3600.0
"""Upper limit of the back-off; also the time without failures after which it starts anew."""
_MAX_DOUBLINGS = 16


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
        self.free_places = self._capacity
        """Number of jobs that would still be accepted. An attribute: load shedding reads it for
        each request."""
        self._waiting = 0
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
        self.free_places -= 1
        try:
            await self._wait()
            try:
                yield
            finally:
                self._places.release()
        finally:
            self.free_places += 1

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.max_queue_wait_s):
                await self._places.acquire()
        except TimeoutError:
            error = QueueFull("the image waited too long for a worker")
            raise self._rejected("queue_wait", error) from None
        finally:
            self._waiting -= 1

    def shed(self) -> CapacityError:
        """Count a request that is rejected because the server is overloaded; return its error."""
        return self._rejected("pressure", Overloaded("the server is overloaded"))

    def check(self) -> None:
        """Raise at once what `enter` would raise, before work is spent on a job."""
        if self._closed:
            raise self._rejected("shutdown", ShuttingDown("the server is stopping"))
        if self.free_places <= 0:
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
        inside = self._capacity - self.free_places - self._waiting
        return {"waiting": self._waiting, "inside": inside, **rejected}


@dataclass(frozen=True, slots=True)
class _Failure:
    error: RenderError
    until: float
    times: int


class FailureCache:
    """An LRU cache of failures by source key.

    A corrupt image is refused for ``failure_s``. One that crashed or blocked workers is refused for
    ``quarantine_s``, doubled with each further failure.
    """

    def __init__(
        self,
        *,
        failure_s: float,
        quarantine_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` returns seconds."""
        self._failure_s = failure_s
        self._quarantine_s = quarantine_s
        self._clock = clock
        self._failures: LRUCache[str, _Failure] = LRUCache(_MAX_FAILURES)

    def check(self, key: str) -> None:
        """Raise the remembered error while it is valid."""
        failure = self._failures.get(key)
        if failure is not None and self._clock() < failure.until:
            # A new instance: the traceback of the first one would keep its frames alive.
            raise type(failure.error)(failure.error.detail)

    def remember(self, key: str, error: SmartserveError) -> None:
        """Store a failure that the image itself caused; other errors are ignored."""
        if not isinstance(error, RenderError):
            return
        before = self._failures.get(key)
        # After a long time without failures the back-off starts anew.
        times = 1
        if before is not None and self._clock() <= before.until + _MAX_BACKOFF_S:
            times = before.times + 1
        refused_s = self._failure_s
        if isinstance(error, RenderFault) and isinstance(error.__cause__, WorkerDied):
            # A job whose response is being streamed is not repeated. One death of its worker proves
            # nothing about the image (out of memory, for example); a second one quarantines it.
            refused_s = 0.0
            if times > 1:
                error = SourceQuarantined("the image made its workers crash; refused for a while")
        if isinstance(error, SourceQuarantined | RenderTimeout):
            backoff_s = self._quarantine_s * 2.0 ** min(times - 1, _MAX_DOUBLINGS)
            refused_s = min(backoff_s, _MAX_BACKOFF_S)
        self._failures[key] = _Failure(error, self._clock() + refused_s, times)

    def statistics(self) -> Mapping[str, float]:
        """Return the number of entries."""
        return {"items": len(self._failures)}
