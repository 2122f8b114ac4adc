"""Supervised background tasks: an unforeseen error is logged, counted, and the task restarted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Any, TypedDict, Unpack

import structlog

log = structlog.get_logger(__name__)

Work = Callable[[], Awaitable[object]]


class BackgroundTask(StrEnum):
    """Names of all background tasks: in the log and as the label of the restart counter."""

    CONNECTION_TIMEOUTS = auto()
    FINALS_QUEUE = auto()
    GARBAGE_COLLECTION = auto()
    YOUNG_GARBAGE_COLLECTION = auto()
    INGEST_PRUNING = auto()
    INGEST_QUEUE_METRICS = auto()
    INGEST_WORKER = auto()
    LEASE_HEARTBEAT = auto()
    METADATA_CACHE_PRUNING = auto()
    METADATA_JOBS = auto()
    METADATA_JOBS_PRUNING = auto()
    METADATA_ORPHANS = auto()
    METADATA_SWEEP = auto()
    OBJECT_PURGES = auto()
    OBJECT_WRITES = auto()
    ORIGINALS_SWEEP = auto()
    PURGE_SYNC = auto()
    REDIS_LISTENER = auto()
    RENDITION_MAINTENANCE = auto()
    SCHEMA_UPGRADE = auto()
    SOURCE_REVALIDATION = auto()
    UPLOAD_SWEEP = auto()
    URL_REPLACEMENT = auto()
    WATCHDOG = auto()
    WORKER_START = auto()
    WORKER_STDERR = auto()


class Schedule(TypedDict, total=False):
    """When a task runs; see `TaskSupervisor.run`."""

    every_s: float | None
    first_after_s: float


ONCE_PER_MACHINE = frozenset(
    {
        BackgroundTask.INGEST_PRUNING,
        BackgroundTask.INGEST_QUEUE_METRICS,
        BackgroundTask.METADATA_CACHE_PRUNING,
        BackgroundTask.METADATA_JOBS_PRUNING,
        BackgroundTask.METADATA_ORPHANS,
        BackgroundTask.METADATA_SWEEP,
        BackgroundTask.ORIGINALS_SWEEP,
        BackgroundTask.UPLOAD_SWEEP,
        BackgroundTask.URL_REPLACEMENT,
    }
)
"""Tasks that only one of several server processes on a machine has to run. All others either have
leases in the database, or concern what a process holds itself."""


@dataclass(frozen=True, slots=True)
class TaskSupervisor:
    """Runs background tasks and restarts those that fail, with exponential back-off.

    One supervisor serves any number of tasks: it keeps no state between them.
    """

    restarted: Callable[[BackgroundTask], None] = lambda _: None
    """Called on the event loop before each restart; must not raise."""
    elsewhere: frozenset[BackgroundTask] = frozenset()
    """Tasks that another process runs: here they end at once."""
    first_backoff_s: float = 0.1
    max_backoff_s: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    @asynccontextmanager
    async def running(
        self, task: BackgroundTask, work: Work, **schedule: Unpack[Schedule]
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Run a task while the block runs. At the end, cancel it and wait until it has ended."""
        running = self.start(task, work, **schedule)
        try:
            yield running
        finally:
            await cancel(running)

    def start(
        self, task: BackgroundTask, work: Work, **schedule: Unpack[Schedule]
    ) -> asyncio.Task[None]:
        """Start a task that the caller owns and ends with `cancel`."""
        return asyncio.create_task(self.run(task, work, **schedule), name=task)

    async def run(
        self,
        task: BackgroundTask,
        work: Work,
        *,
        every_s: float | None = None,
        first_after_s: float = 0.0,
    ) -> None:
        """Wait ``first_after_s``, then call ``work`` until it returns, or forever.

        If ``every_s`` is None, ``work`` runs once, typically as an endless loop, and is called
        again only after an error. Otherwise it is called again ``every_s`` after each return.
        Ends early only if this call is cancelled, or if the task runs ``elsewhere``.
        """
        if task in self.elsewhere:
            return
        if first_after_s:
            await self.sleep(first_after_s)
        backoff_s = self.first_backoff_s
        while True:
            began = self.clock()
            try:
                await work()
            except (Exception, asyncio.CancelledError) as error:
                # Only the cancellation of this task is the end; every other error is a failure of
                # the work.
                if _is_own_cancellation(error):
                    raise
                # A loop that ran this long has recovered from its last failure.
                if self.clock() - began >= self.max_backoff_s:
                    backoff_s = self.first_backoff_s
                log.exception("background_task_failed", task=str(task), restart_in_s=backoff_s)
                self.restarted(task)
                await self.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, self.max_backoff_s)
            else:
                if every_s is None:
                    return
                backoff_s = self.first_backoff_s
                await self.sleep(every_s)


def _is_own_cancellation(error: BaseException) -> bool:
    """Return whether the running task itself was cancelled.

    A CancelledError may also come from a future that the work awaited and somebody else cancelled.
    That is a failure of the work: treating it as the end would stop the task without a log line.
    """
    current = asyncio.current_task()
    # `cancelling` counts calls of `cancel` on the task itself.
    return (
        isinstance(error, asyncio.CancelledError)
        and current is not None
        and current.cancelling() > 0
    )


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until all have ended; errors they end with are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


UNCOUNTED = TaskSupervisor()
"""Restarts tasks without counting: for commands and tests, which expose no metrics."""
