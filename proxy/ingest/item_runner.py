"""Runs one upload through its remaining steps, with time limits and retries.

A retry comes at one of two times. The attempts of a step follow each other within seconds. If all
of them fail, the upload may run again minutes or hours later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import stamina
import structlog

from proxy.domain.errors import (
    FILE_FAULTS,
    CapacityError,
    DatabaseUnavailable,
    ExtractionFailed,
    ExtractionTimeout,
    IngestError,
    LeaseLost,
    MainApiUnavailable,
    RenderFault,
    RenderTimeout,
    RowRejected,
    SmartserveError,
    SourceChanged,
    SourceQuarantined,
    SourceTimeout,
    SourceUnavailable,
    StepOverdue,
    StorageError,
    UploadGone,
    UploadMerged,
    WorkerEnded,
)
from proxy.domain.upload import METADATA_STEP, ItemOutcome, LeasedItem, Step, StepState
from proxy.ingest.main_api import MainApi
from proxy.ingest.steps import IngestSteps
from proxy.settings import IngestSettings
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.telemetry.metrics import IngestMetrics
from proxy.telemetry.tracing import STATE, SpanChain

T = TypeVar("T")

StepFunction = Callable[[LeasedItem], Awaitable[None]]
"""Does the work of one step and records its completion in the same transaction as its results."""

_TRANSIENT = (
    MainApiUnavailable,
    CapacityError,
    SourceUnavailable,
    SourceTimeout,
    SourceChanged,
    StorageError,
)
# A step that exceeded its time limit is not retried at once: the next attempt would hang as well.
_RETRIED_NOW = (*_TRANSIENT, RenderTimeout, RenderFault)
_ANALYSIS_RETRIED = (*_RETRIED_NOW, SourceQuarantined, WorkerEnded, StepOverdue)
_METADATA_RETRIED = (*_ANALYSIS_RETRIED, ExtractionFailed, ExtractionTimeout)
# The main API answered 404 or 410: the user deleted the upload, or it is being redeployed. If it
# lists the upload after these retries, the upload runs again.
_GONE_RETRIES = 3

_GRACE_S = 5.0
"""Time for a cancelled step to clean up before it counts as hanging."""
_MAX_HANGING = 4
_CANCEL_ROUNDS = 100
"""More awaits than a cancelled step passes in its ``finally`` blocks."""

KEPT_ADVICE = (
    "The file is kept. Remove the cause, then run 'smartserve retry-uploads'; or delete the upload"
    " with DELETE /api/media/cleanup/ID."
)

log = structlog.get_logger(__name__)


class StepTimeouts:
    """Limits how long an attempt may take, and counts attempts that cannot be ended.

    A step that exceeds its limit is cancelled. A step blocked in a system call on a dead file
    system cannot be: it is left behind with its thread and open files until the call returns. It
    writes nothing afterwards, because only its ``finally`` blocks are left to run.
    """

    def __init__(self, settings: IngestSettings, *, grace_s: float = _GRACE_S) -> None:
        """``grace_s`` is the time to clean up after a cancellation."""
        self._settings = settings
        self._grace_s = grace_s
        self._hanging: dict[asyncio.Future[Any], str] = {}

    async def run(self, step: str, work: Awaitable[T]) -> T:
        """Await ``work``, and return or raise what it does.

        Raises:
            StepOverdue: the time limit passed. The step may still hang.
        """
        rendering = step is Step.RESIZE_OPTIMIZE
        limit_s = self._settings.render_timeout_s if rendering else self._settings.step_timeout_s
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task], timeout=limit_s)
        finally:
            # Reached by the timeout, and by a cancellation of the caller (shutdown, lost lease).
            if not task.done():
                await self._cancel(step, task)
        # A step that was cancelled in time has freed its resources; it is overdue all the same.
        if not task.done() or task.cancelled():
            raise StepOverdue(f"did not finish within {limit_s:g} s")
        return task.result()

    async def _cancel(self, step: str, task: asyncio.Future[Any]) -> None:
        task.cancel()
        try:
            await asyncio.wait([task], timeout=self._grace_s)
        finally:
            if not task.done():
                self._hanging[task] = step
                task.add_done_callback(self._returned)
                log.error("step_hangs", step=step, hanging=len(self._hanging))

    def _returned(self, task: asyncio.Future[Any]) -> None:
        step = self._hanging.pop(task)
        error = None if task.cancelled() else task.exception()
        log.warning("hanging_step_ended", step=step, hanging=len(self._hanging), error=repr(error))

    @property
    def too_many_hanging(self) -> bool:
        """Return whether no new step should start. Steps that run now may still begin to hang."""
        return len(self._hanging) >= _MAX_HANGING

    def statistics(self) -> Mapping[str, float]:
        """Return the number of hanging steps."""
        return {"hanging": len(self._hanging)}

    async def aclose(self) -> None:
        """Abandon the threads of hanging steps, so that the process can exit without them."""
        for _ in range(_CANCEL_ROUNDS):
            for task in [*self._hanging]:
                task.cancel()
            if not self._hanging:
                return
            # One turn of the loop moves each step to the next await of its cleanup.
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRunner:
    """Runs leased uploads.

    Steps run in the order of `Step`; one that is missing in ``steps`` is skipped. Without the
    analysis step, incomplete analyses are not requested again either. ``changed`` is called with
    the media id after each change of a row.
    """

    api: MainApi
    queue: IngestQueue
    progress: LeasedWriter
    timeouts: StepTimeouts
    steps: Mapping[Step, StepFunction]
    analyses: IngestSteps
    settings: IngestSettings
    worker_id: str
    metrics: IngestMetrics
    changed: Callable[[int], None]
    extract_metadata: StepFunction | None = None
    """Extracts the metadata after the steps; records nothing in the checklist."""
    spans: SpanChain = field(default_factory=SpanChain)
    """Each step links to the one before it."""

    async def run(self, item: LeasedItem) -> ItemOutcome:
        """Finish an upload and record how it ended.

        Raises:
            LeaseLost: another worker owns the upload now.
            UploadMerged: the upload continues later, with the medium of an equal one.
            DatabaseUnavailable: nothing could be recorded; the lease expires.
        """
        # The upload failed permanently before; only the report to the main API is missing.
        if item.report_due:
            await self._report_failure(item, retries=item.retries)
            return ItemOutcome.REPORTED
        # The upload is done and reported; only its analysis or its metadata is incomplete.
        if item.analysis_only:
            return await self._revisit(item)
        analysis_pending = False
        for step in Step:
            # Completed by this worker before a failure, or by a worker that died afterwards.
            if step not in self.steps or item.is_done(step):
                continue
            try:
                await self._run_step(item, step, self.steps[step])
            except SmartserveError as error:
                if _is_unrecordable(error):
                    raise
                # An image without an analysis can still be served, so the upload continues.
                if step is not Step.AI_VISUAL_ANALYSIS:
                    return await self._fail(item, step, error)
                log.warning("analysis_failed", **_ids(item), **_reasons(error))
                analysis_pending = isinstance(error, _ANALYSIS_RETRIED)
        metadata_pending = not await self._extract_metadata(item)
        await self._finish(
            item, analysis_pending=analysis_pending, metadata_pending=metadata_pending
        )
        log.info("upload_done", **_ids(item))
        return ItemOutcome.DONE

    async def _run_step(self, item: LeasedItem, step: Step, work: StepFunction) -> None:
        """Run a step until it succeeds. The attempts of earlier workers count too.

        Raises:
            SmartserveError: the last attempt failed; the checklist says so.
            LeaseLost, DatabaseUnavailable: nothing was recorded.
        """
        left = self.settings.max_attempts - item.steps[step].attempts
        try:
            # An attempt is counted before it starts. If none is left, every earlier attempt killed
            # its worker before it could record a failure: the upload itself may be the cause.
            if left <= 0:
                raise WorkerEnded("each attempt ended with the death of its worker")
            async for attempt in stamina.retry_context(
                on=self._retry_wait,
                attempts=left,
                timeout=None,
                wait_initial=self.settings.step_backoff_s,
                wait_max=self.settings.max_step_backoff_s,
                wait_jitter=self.settings.step_backoff_s,
            ):
                with attempt:
                    # Before the work: an attempt that kills this process must count.
                    await self.progress.start_attempt(item.lease, step, worker_id=self.worker_id)
                    await self._timed(item, step, work)
        except SmartserveError as error:
            if _is_unrecordable(error):
                raise
            await self.progress.set_step(item.lease, step, StepState.FAILED)
            raise

    async def _extract_metadata(self, item: LeasedItem) -> bool:
        """Extract the metadata of a served upload; return False if a retry may succeed."""
        if self.extract_metadata is None:
            return True
        try:
            await self._timed(item, METADATA_STEP, self.extract_metadata)
        except SmartserveError as error:
            log.warning("metadata_failed", **_ids(item), **_reasons(error))
            return isinstance(error, RowRejected) or not isinstance(error, _METADATA_RETRIED)
        except Exception:
            # No checklist counts the attempts, so a fault of this program would be repeated each
            # time the lease expires.
            log.exception("metadata_failed", **_ids(item))
        return True

    async def _timed(self, item: LeasedItem, step: str, work: StepFunction) -> None:
        began, outcome = time.monotonic(), "failed"
        try:
            with self._span(item, step):
                await self.timeouts.run(step, work(item))
            outcome = "ok"
        except StepOverdue:
            outcome = "overdue"
            raise
        except UploadMerged:
            outcome = "ok"
            raise
        finally:
            seconds = time.monotonic() - began
            self.metrics.step(step, item.upload.data_type, seconds=seconds, outcome=outcome)

    def _span(self, item: LeasedItem, step: str) -> AbstractContextManager[None]:
        # As on the request path: without tracing nothing is called or built for it.
        if STATE.tracer is None:
            return nullcontext()
        attributes: dict[str, str | float] = {
            "smartserve.upload.id": item.upload.id,
            "smartserve.upload.type": item.upload.data_type,
            "smartserve.media.id": item.lease.media_id,
        }
        return self.spans.span(f"ingest {step}", item.upload.id, attributes)

    def _retry_wait(self, error: Exception) -> bool | float:
        """Return whether to retry, or the seconds to wait if the error defines them."""
        # Without the database no further attempt can be counted.
        if isinstance(error, DatabaseUnavailable) or not isinstance(error, _RETRIED_NOW):
            return False
        # A longer Retry-After ends the attempts; the upload then runs again later as a whole.
        return error.retry_wait(self.settings.max_step_backoff_s)

    async def _finish(
        self, item: LeasedItem, *, analysis_pending: bool, metadata_pending: bool
    ) -> None:
        wait_s = self._analysis_wait_s(0)
        if wait_s is not None and not metadata_pending:
            analysing = Step.AI_VISUAL_ANALYSIS in self.steps
            # Either the step failed, or it succeeded without one of the providers.
            if not analysing or not (
                analysis_pending or await self.analyses.is_analysis_incomplete(item)
            ):
                wait_s = None
        await self.queue.finish(item.lease, analysis_in_s=wait_s)

    async def _revisit(self, item: LeasedItem) -> ItemOutcome:
        """Retry what a finished upload lacks. It stays done, whatever the result."""
        complete = await self._retry_analysis(item)
        complete = await self._extract_metadata(item) and complete
        wait_s = None if complete else self._analysis_wait_s(item.retries)
        log.info("analysis_retried", **_ids(item), complete=complete, again_in_s=wait_s)
        await self.queue.finish_revisit(item.lease, again_in_s=wait_s)
        return ItemOutcome.ANALYSED if complete else ItemOutcome.ANALYSIS_MISSING

    async def _retry_analysis(self, item: LeasedItem) -> bool:
        """Request the missing parts of the analysis again; return whether it is complete now."""
        # Analyses may have been switched off since then: the upload counts as complete.
        complete = Step.AI_VISUAL_ANALYSIS not in self.steps
        try:
            if not complete:
                work = self.analyses.complete_analysis(item)
                complete = await self.timeouts.run(Step.AI_VISUAL_ANALYSIS, work)
        except SmartserveError as error:
            if _is_unrecordable(error):
                raise
            log.warning("analysis_failed", **_ids(item), **_reasons(error))
        return complete

    def _analysis_wait_s(self, retries: int) -> float | None:
        """Return the wait before the next request, or None after the last one."""
        waits = self.settings.analysis_retry_s
        return waits[retries] if retries < len(waits) else None

    async def _fail(self, item: LeasedItem, step: Step, error: SmartserveError) -> ItemOutcome:
        reason, retries = failure_reason(step, error), item.retries
        bad_file, gone = proves_bad_file(step, error), isinstance(error, UploadGone)
        # The lease is freed with the failure, so any worker may run the upload again.
        if retries < self.settings.max_retries and not (
            (gone and retries >= _GONE_RETRIES) or (bad_file and self._is_confirmed(item, reason))
        ):
            wait_s = retry_wait_s(self.settings, retries)
            reasons = {**_reasons(error), "reason": reason}
            log.warning("upload_failed", **_ids(item), **reasons, again_in_s=wait_s)
            await self.queue.fail(item.lease, reason, again_in_s=wait_s)
            return ItemOutcome.RETRY
        if not (bad_file or gone):
            log.error("upload_kept", **_ids(item), reason=reason, advice=KEPT_ADVICE)
            await self.queue.keep(item.lease, reason)
            self.changed(item.lease.media_id)
            return ItemOutcome.KEPT
        log.warning("upload_failed_permanently", **_ids(item), reason=reason)
        await self.queue.fail_permanently(item.lease, reason)
        # Caches must not serve a medium whose row is now failed.
        self.changed(item.lease.media_id)
        if gone:
            # No report: by 404 the main API would learn nothing, and by mistake delete a file.
            await self.queue.mark_reported(item.lease)
        else:
            await self._report_failure(item, retries=0)
        return ItemOutcome.FAILED

    def _is_confirmed(self, item: LeasedItem, reason: str) -> bool:
        """Return whether enough downloads gave the same bad file."""
        needed = self.api.confirmations
        # The run before must have failed for the same reason: the retries so far may be those of an
        # unavailable main API.
        return not needed or (item.retries >= needed and item.last_reason == reason)

    async def _report_failure(self, item: LeasedItem, *, retries: int) -> None:
        """Report a permanent failure to the main API, which then deletes its temporary file."""
        try:
            await self.api.cleanup(item.upload.id)
        except UploadGone:
            # The main API has already dropped the upload: there is nothing left to report.
            pass
        except IngestError as error:
            # Without the report the main API keeps listing the upload and its temporary file.
            if retries < self.settings.max_retries:
                wait_s = retry_wait_s(self.settings, retries)
                await self.queue.retry_report(item.lease, again_in_s=wait_s)
                return
            log.warning("failure_not_reported", **_ids(item), reason=error.detail)
        await self.queue.mark_reported(item.lease)


def proves_bad_file(step: Step, error: SmartserveError) -> bool:
    """Return whether the file itself is at fault, so that its upload may be cleaned up.

    Later steps read our copy of a file that was decoded completely: their errors prove nothing.
    """
    return step is Step.RETRIEVE_FILE and isinstance(error, FILE_FAULTS)


def failure_reason(step: Step, error: SmartserveError) -> str:
    """Return the sentence for operators: the step, its error, and the message of the system."""
    cause = error.__cause__
    message = cause.strerror if isinstance(cause, OSError) else None
    suffix = f" ({message})" if message and message not in error.detail else ""
    return f"{step}: {error.detail}{suffix}"


def retry_wait_s(settings: IngestSettings, retries: int) -> float:
    """Return the wait before an upload runs again: doubled with each retry, up to a maximum."""
    # 2 ** 32 s exceeds every maximum; a larger exponent could overflow a float.
    return min(settings.max_retry_backoff_s, settings.retry_backoff_s * 2.0 ** min(retries, 32))


def _is_unrecordable(error: SmartserveError) -> bool:
    """Return whether the outcome of an item must stay open until its lease expires.

    Without the lease it may not be recorded, without the database it cannot be. A row that the
    database rejects is a failure as others are.
    """
    if isinstance(error, RowRejected):
        return False
    return isinstance(error, (LeaseLost, DatabaseUnavailable))


def _reasons(error: SmartserveError) -> dict[str, str]:
    """Return what the log says about an error."""
    cause = {"cause": error.reason} if error.reason else {}
    return {"reason": error.detail, **cause}


def _ids(item: LeasedItem) -> dict[str, int]:
    return {"main_api_id": item.upload.id, "media_id": item.lease.media_id}
