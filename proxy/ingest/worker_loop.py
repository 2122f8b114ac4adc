"""The ingest worker: polls the main API, leases uploads, runs them, and waits for more."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol, TypeVar

import structlog

from proxy.domain.errors import (
    DatabaseUnavailable,
    LeaseLost,
    SmartserveError,
    UploadMerged,
)
from proxy.domain.upload import (
    ItemOutcome,
    ItemState,
    LeasedItem,
    QueueReport,
    Step,
    StepState,
    pages,
)
from proxy.ingest.item_runner import KEPT_ADVICE, ItemRunner
from proxy.runtime.supervised_task import (
    UNCOUNTED,
    BackgroundTask,
    Schedule,
    TaskSupervisor,
    cancel,
)

_Lease_contra = TypeVar("_Lease_contra", contravariant=True)

_MAX_WORKER_ID = 50
_MIN_REST_S = 0.5
"""An upload that is due may be leased by another worker: without a minimum this loop would spin."""
_RENEWALS_PER_LEASE = 3
"""Two renewals may fail before a lease expires."""
_REPORT_EVERY_S = 15.0
_DAY_S = 86400
_PRUNE_EVERY_S = 3600.0
_FIRST_PRUNE_AFTER_S = 60.0
"""Not at the start, when all caches are cold and the queue has a backlog."""
_REPORT_COUNTS = ("stuck", "oldest_s", "failed_for_good", "held", "run_out", "takeovers")

log = structlog.get_logger(__name__)


def new_worker_id() -> str:
    """Return a unique name for this worker, at most 50 characters long."""
    tail = f"-{os.getpid()}-{secrets.token_hex(4)}"
    return socket.gethostname()[: _MAX_WORKER_ID - len(tail)] + tail


class WorkerLoop:
    """Runs ``ingest.concurrency`` uploads at a time until `stop` is called."""

    def __init__(
        self, runner: ItemRunner, woken: asyncio.Event, supervisor: TaskSupervisor = UNCOUNTED
    ) -> None:
        """Setting ``woken`` ends the current rest: a new upload was accepted."""
        self.runner = runner
        self.ran = 0
        """Uploads that `run_once` has run."""
        self.failures = 0
        """Failed uploads since the start, transient or permanent, plus all other errors."""
        self._queue, self._settings, self._timeouts = runner.queue, runner.settings, runner.timeouts
        self._woken = woken
        self.supervisor = supervisor
        self._stopping = False
        self._error_in_cycle = False
        self._retries_left = 0
        self._provider_down = False
        """An analysis is still incomplete after a retry in this cycle."""

    async def prune(self) -> None:
        """Delete finished items that are older than `ingest.retention_days`.

        Any number of workers may do so. If the database is unavailable, the next call does it.
        """
        with suppress(DatabaseUnavailable):
            days = self._settings.retention_days
            if pruned := await self._queue.prune(older_than_s=days * _DAY_S):
                log.info("finished_uploads_pruned", items=pruned, older_than_days=days)

    async def run(self) -> None:
        """Repeat cycles until `stop`. After an unforeseen error the supervisor calls it again."""
        while not self._stopping:
            if not await self._cycle():
                await self._rest()

    async def run_once(self) -> int:
        """Run until no upload is due, and return how many failed."""
        while not self._stopping and (ran := await self._cycle()):
            self.ran += ran
        await self.prune()
        return self.failures

    def stop(self) -> None:
        """Start no further upload. Uploads that run now continue."""
        self._stopping = True
        self._woken.set()

    async def _cycle(self) -> int:
        """Poll, run everything that is due, and return how many uploads ran."""
        # Before the poll: an upload that arrives during it sets the event again and ends the rest.
        self._woken.clear()
        self._error_in_cycle = self._provider_down = False
        self._retries_left = self._settings.retries_per_cycle
        await self._poll()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run_due()) for _ in range(self._settings.concurrency)]
        # 0 makes `run` rest and `run_once` end, although uploads are still due.
        if self._timeouts.too_many_hanging:
            self._error_in_cycle = True
            self.failures += 1
            log.error("paused_by_hanging_steps", **self._timeouts.statistics())
            return 0
        return sum(task.result() for task in tasks)

    async def _poll(self) -> None:
        """Add pending uploads to the queue. If that fails, those already queued still run."""
        added = pending = unreadable = 0
        try:
            # Read before the list is requested: a completion after this time may be missing there.
            listed_at = await self._queue.now()
            # A main API that keeps listing a completed upload gets one callback per interval.
            settled_before = listed_at - self._settings.retry_backoff_s
            # One page at a time: the list may have millions of uploads.
            async for page in pages(self.runner.api.pending):
                added += await self._queue.enqueue(page.uploads, settled_before=settled_before)
                for entry in await self._queue.record_unusable(page.unusable):
                    reason, advice = entry.reason, KEPT_ADVICE
                    log.error("upload_kept", main_api_id=entry.id, reason=reason, advice=advice)
                unreadable += page.unreadable
                pending += len(page.uploads)
        except SmartserveError as error:
            self.runner.metrics.polled("failed")
            self._report_error("poll_failed", error)
            return
        self.runner.metrics.polled("ok", unreadable=unreadable)
        if unreadable:
            advice = "The main API lists entries without a valid id; they cannot be processed."
            log.error("unreadable_entries", entries=unreadable, advice=advice)
        if added:
            log.info("uploads_queued", added=added, pending=pending)

    async def _run_due(self) -> int:
        count = 0
        while not (self._stopping or self._timeouts.too_many_hanging):
            try:
                item = await self._claim()
            except DatabaseUnavailable as error:
                self._report_error("claim_failed", error)
                break
            if item is None:
                break
            count += await self._run_leased(item)
        return count

    async def _claim(self) -> LeasedItem | None:
        """Lease the next upload: new ones first, then a limited number of failed ones.

        Incomplete analyses come last, and only until one remains incomplete: all others would wait
        for the same provider.
        """
        item = await self._queue.claim(self.runner.worker_id)
        if item is not None or self._retries_left <= 0:
            return item
        # Reserve a retry before the await: the other tasks of this cycle share the limit.
        self._retries_left -= 1
        item = await self._queue.claim(self.runner.worker_id, ItemState.FAILED)
        if item is None and not self._provider_down:
            item = await self._queue.claim(self.runner.worker_id, ItemState.INCOMPLETE)
        # Nothing was due: the reserved retry is available again.
        self._retries_left += item is None
        return item

    async def _run_leased(self, item: LeasedItem) -> bool:
        """Run an upload, and return whether another of its kind should follow.

        An upload that is left unfinished for any reason is taken over once its lease expires.
        """
        ids = {"main_api_id": item.upload.id, "media_id": item.lease.media_id}
        try:
            lease_s = self._settings.lease_s
            async with renewed(self._queue, item.lease, lease_s, self.supervisor):
                outcome = await self.runner.run(item)
        except asyncio.CancelledError:
            # Released, so that another worker continues now and not when the lease expires.
            with suppress(LeaseLost, DatabaseUnavailable):
                await self._queue.release(item.lease)
            raise
        except UploadMerged as merged:
            log.info("upload_merged", **ids, reason=merged.detail)
        except LeaseLost:
            log.warning("lease_lost", **ids)
        except DatabaseUnavailable as error:
            self._report_error("database_lost_during_upload", error, **ids)
        except Exception:
            # One faulty upload must not stop the others.
            self.failures += 1
            log.exception("upload_abandoned", **ids)
        else:
            # Not counted: reports of earlier failures, and retried analyses.
            self.failures += outcome in (
                ItemOutcome.RETRY,
                ItemOutcome.FAILED,
                ItemOutcome.KEPT,
            )
            self.runner.metrics.processed(outcome)
            if outcome is ItemOutcome.ANALYSIS_MISSING:
                # Other incomplete analyses of this cycle need the same provider.
                self._provider_down = True
                return False
        return True

    def _report_error(self, event: str, error: SmartserveError, **ids: int | None) -> None:
        self._error_in_cycle = True
        self.failures += 1
        cause = {"cause": error.reason} if error.reason else {}
        log.warning(event, **ids, reason=error.detail, **cause)

    async def _rest(self) -> None:
        """Wait until the next upload is due, `woken` is set, or it is time to poll."""
        pause_s = await self._pause_s()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._woken.wait()

    async def _pause_s(self) -> float:
        poll_s = self._settings.poll_interval_s
        if not self._error_in_cycle:
            # Without the database the pause is that after an error.
            with suppress(DatabaseUnavailable):
                due_s = await self._queue.due_in_s(retries=self._settings.retries_per_cycle > 0)
                # Nothing waits: only a poll or a new upload can bring work.
                return poll_s if due_s is None else min(poll_s, max(_MIN_REST_S, due_s))
        return min(poll_s, self._settings.max_step_backoff_s)


class RenewableQueue(Protocol[_Lease_contra]):
    """A queue whose leases are renewed while the work runs."""

    async def renew(self, lease: _Lease_contra, /) -> None:
        """Extend the lease; raises LeaseLost and DatabaseUnavailable."""


class LeasedWork(Protocol):
    """A worker on a queue; see `WorkerLoop`, which is one."""

    @property
    def supervisor(self) -> TaskSupervisor:
        """Runs the worker."""

    async def run(self) -> None:
        """Work until `stop`."""

    async def prune(self) -> None:
        """Delete old rows and files."""

    def stop(self) -> None:
        """Begin no further work."""


@asynccontextmanager
async def renewed(
    queue: RenewableQueue[_Lease_contra],
    lease: _Lease_contra,
    lease_s: float,
    supervisor: TaskSupervisor = UNCOUNTED,
) -> AsyncIterator[None]:
    """Renew a lease while the block runs, and cancel the block if the lease is lost.

    Raises:
        LeaseLost: another worker has taken over.
    """
    limit = asyncio.timeout(None)

    async def renew() -> None:
        while True:
            await asyncio.sleep(lease_s / _RENEWALS_PER_LEASE)
            try:
                await queue.renew(lease)
            except LeaseLost:
                # A timeout of zero: asyncio cancels the block, and distinguishes this from a
                # cancellation by the caller.
                limit.reschedule(asyncio.get_running_loop().time())
                return
            except DatabaseUnavailable as error:
                # The work continues. If the lease expires meanwhile and another worker takes
                # over, every write of this one is rejected by its token (fencing).
                log.warning("lease_not_renewed", cause=error.reason)

    try:
        async with supervisor.running(BackgroundTask.LEASE_HEARTBEAT, renew), limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        # The timeout is an implementation detail of this cancellation, not its cause.
        raise LeaseLost("another worker has taken over") from None


@asynccontextmanager
async def running_worker(
    worker: LeasedWork,
    *,
    drain_s: float,
    work: BackgroundTask = BackgroundTask.INGEST_WORKER,
    pruning: BackgroundTask = BackgroundTask.INGEST_PRUNING,
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker while the block runs. At the end, give its current work ``drain_s``.

    What is unfinished is then released, and another worker continues it.
    """
    task = worker.supervisor.start(work, worker.run)
    schedule = Schedule(every_s=_PRUNE_EVERY_S, first_after_s=_FIRST_PRUNE_AFTER_S)
    prunes = worker.supervisor.running(pruning, worker.prune, **schedule)
    try:
        async with prunes:
            yield task
    finally:
        # What runs may finish; the loop claims nothing more.
        worker.stop()
        _, unfinished = await asyncio.wait([task], timeout=drain_s)
        if unfinished:
            log.info("work_released", task=str(work))
        # Its cancellation releases the leases, see `_run_leased`.
        await cancel(task)


class QueueMetrics:
    """Statistics of the ingest queue for the metrics. Before the first report all figures are 0."""

    def __init__(self, report: Callable[[], Awaitable[QueueReport]]) -> None:
        """``report`` reads the queue, or raises DatabaseUnavailable."""
        self._report = report
        self._latest: QueueReport | None = None

    def running(self, supervisor: TaskSupervisor) -> AbstractAsyncContextManager[object]:
        """Refresh the report while the block runs."""
        task = BackgroundTask.INGEST_QUEUE_METRICS
        return supervisor.running(task, self.refresh, every_s=_REPORT_EVERY_S)

    async def refresh(self) -> None:
        """Read the queue now. If the database is unavailable, the latest report stays."""
        with suppress(DatabaseUnavailable):
            self._latest = await self._report()

    def statistics(self) -> Mapping[str, float]:
        """Return items as ``items_<state>``, steps as ``<step>_<state>``, and other counts."""
        report = self._latest
        items = {f"items_{one}": 0.0 if report is None else report.states[one] for one in ItemState}
        steps = {
            f"{step}_{state}": 0.0 if report is None else report.steps[step][state]
            for step in Step
            for state in StepState
        }
        # Before the first report `report` is None, so every count is 0.
        return {**items, **steps, **{name: getattr(report, name, 0) for name in _REPORT_COUNTS}}
