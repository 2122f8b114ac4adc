"""The gates before the workers: a bounded queue, and a cache of images that failed."""

from __future__ import annotations

import asyncio
import math
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
from proxy.rendering.pool.process import WorkerDied
from proxy.settings import WorkerSettings

REASONS = ("queue_full", "queue_wait", "shutdown", "pressure")
"""Reasons for a rejection."""

PATIENCE = 2
"""A job that was accepted waits up to this many times ``workers.max_queue_wait_s``: the prediction
may be wrong, and work that was accepted is rejected late only if it is wrong by far."""
_WEIGHT = 0.3
"""Weight of the newest service time in the mean of its kind. A busy neighbour makes all jobs
several times slower within a second, and the prediction has to follow."""
_MAX_KINDS = 1000
_MAX_FAILURES = 10_000
_MAX_BACKOFF_S = 3600.0
"""Upper limit of the back-off; also the time without failures after which it starts anew."""
_MAX_DOUBLINGS = 16


class Admission:
    """Limits concurrent jobs and the queue, which is first in, first out.

    A job is rejected on arrival if its predicted wait exceeds ``workers.max_queue_wait_s``: that is
    the measured service time of all waiting jobs, divided by the number of workers. So a burst of
    quick jobs is accepted that a short queue would reject. ``workers.max_queue`` limits memory.

    One more job per worker is admitted than can run: it is prepared while it waits, so a worker
    that becomes free starts it at once.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        # A prepared job has an open source and a pipe, so their number is limited, too.
        self._workers = settings.processes
        prepared = min(self._workers, settings.max_queue)
        self._settings = settings
        self._places = asyncio.Semaphore(self._workers + prepared)
        self._capacity = self._workers + settings.max_queue
        self._max_waiting = settings.max_queue - prepared
        self._inside = 0
        self.has_queue = self._max_waiting > 0
        """Whether jobs may wait for admission."""
        self.waiting = 0
        """Jobs that wait for admission."""
        self._long = 0
        """Waiting jobs that are predicted to take longer than a job may wait."""
        self._waiting_us = 0
        """Predicted service time of all other waiting jobs. Whole microseconds: a sum of floats
        drifts, and what is left when the jobs have started may then be negative."""
        self._mean_s = 0.0
        """Mean service time of recent jobs that were not long; 0 until the first one has ended."""
        self._kinds: LRUCache[str, float] = LRUCache(_MAX_KINDS)
        """Mean service time by kind of job."""
        self._closed = False
        self._rejections: Counter[str] = Counter()

    @property
    def free_places(self) -> int:
        """Number of jobs that would still be accepted."""
        places = self._capacity - self._inside - self.waiting
        return min(places, self._fitting(self._budget_s - self._waiting_us / 1e6))

    @property
    def max_waiting(self) -> int:
        """Limit of the jobs that wait for admission."""
        return min(self._max_waiting, self._fitting(self._budget_s))

    @property
    def _budget_s(self) -> float:
        """Service time of the waiting jobs at which a further job would wait too long."""
        # A long job, such as the finals of an upload, occupies one worker. The jobs behind it do
        # not wait for its end, but share the others. A single worker is treated as if it were free,
        # because a wrong rejection is worse than a wait that is longer than predicted.
        workers = max(1, self._workers - self._long)
        return self._settings.max_queue_wait_s * workers

    def _is_long(self, service_s: float) -> bool:
        return service_s > self._settings.max_queue_wait_s

    def _fitting(self, seconds: float) -> int:
        """Return how many jobs of the present mix have this service time."""
        quick = self.waiting - self._long
        mean_s = self._waiting_us / 1e6 / quick if self._waiting_us else self._mean_s
        # Until something is measured, only `max_queue` limits.
        return math.ceil(max(0.0, seconds) / mean_s) if mean_s else self._capacity

    @asynccontextmanager
    async def enter(self, kind: str = "") -> AsyncIterator[None]:
        """Context manager: wait for admission, and hold the place for the block.

        ``kind`` names jobs with about the same service time, which `learn` reports.

        Raises:
            QueueFull: the queue is full, or the job waited far longer than predicted.
            ShuttingDown: the server is stopping.
        """
        self.check()
        await self._wait(self._kinds.get(kind, 0.0))
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._places.release()

    async def _wait(self, service_s: float) -> None:
        long = self._is_long(service_s)
        quick_us = 0 if long else round(1e6 * service_s)
        self.waiting += 1
        self._long += long
        self._waiting_us += quick_us
        try:
            async with asyncio.timeout(PATIENCE * self._settings.max_queue_wait_s):
                await self._places.acquire()
        except TimeoutError:
            error = QueueFull("the image waited too long for a worker")
            raise self._rejected("queue_wait", error) from None
        finally:
            self.waiting -= 1
            self._long -= long
            self._waiting_us -= quick_us

    def learn(self, kind: str, service_s: float) -> None:
        """Record the service time of a job that has ended, in seconds."""
        before_s = self._kinds.get(kind, service_s)
        self._kinds[kind] = before_s + _WEIGHT * (service_s - before_s)
        if not self._is_long(service_s):
            mean_s = self._mean_s or service_s
            self._mean_s = mean_s + _WEIGHT * (service_s - mean_s)

    def shed(self) -> CapacityError:
        """Count a request that is rejected because the server is overloaded; return its error."""
        return self._rejected("pressure", Overloaded("the server is overloaded"))

    def check(self) -> None:
        """Raise at once what `enter` would raise, before work is spent on a job."""
        if self._closed:
            raise self._rejected("shutdown", ShuttingDown("the server is stopping"))
        if self._inside + self.waiting >= self._capacity:
            raise self._rejected("queue_full", QueueFull("too many images are waiting"))
        if self.free_places <= 0:
            wait_s = self._settings.max_queue_wait_s * self._waiting_us / 1e6 / self._budget_s
            error = QueueFull(
                f"too many images are waiting: a worker is free in about {wait_s:.0f} s"
            )
            raise self._rejected("queue_wait", error)

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
        return {"waiting": self.waiting, "inside": self._inside, **rejected}


@dataclass(frozen=True, slots=True)
class _Failure:
    error: SmartserveError
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
        kinds: tuple[type[SmartserveError], ...] = (RenderError,),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Errors of these ``kinds`` are stored; ``clock`` returns seconds."""
        self._kinds = kinds
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
        if not isinstance(error, self._kinds):
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
