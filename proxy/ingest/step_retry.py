"""Runs a step of an upload: its time limit, its retries, and which errors are retried.

A retry comes at one of two times. The attempts of `StepRetrier` follow each other within seconds.
If all of them fail, `proxy.ingest.item_runner` may run the upload again minutes or hours later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import stamina
import structlog

from proxy.domain.errors import (
    CapacityError,
    DatabaseUnavailable,
    MainApiForbidden,
    MainApiRefused,
    MainApiUnavailable,
    RenderFault,
    RenderTimeout,
    SmartserveError,
    SourceChanged,
    SourceQuarantined,
    SourceTimeout,
    SourceUnavailable,
    StepOverdue,
    StorageError,
    UploadGone,
    WorkerEnded,
)
from proxy.domain.upload import LeasedItem, Step, StepState
from proxy.settings import IngestSettings
from proxy.storage.database.ingest_progress import IngestProgress
from proxy.telemetry.metrics import IngestMetrics
from proxy.telemetry.tracing import SpanChain

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
_RETRIED_NOW = (*_TRANSIENT, RenderTimeout, RenderFault)
# A step that exceeded its time limit is not retried at once: the next attempt would hang as well.
_RETRIED_LATER = (*_TRANSIENT, MainApiForbidden, WorkerEnded, StepOverdue)
# Either the upload causes these errors, or a passing condition does: the OOM killer ends workers,
# and a main API that is being redeployed answers 404. A few retries cost less than a lost upload.
_AMBIGUOUS = (SourceQuarantined, RenderTimeout, RenderFault, UploadGone)
_AMBIGUOUS_RETRIES = 3

_GRACE_S = 5.0
"""Time for a cancelled step to clean up before it counts as hanging."""
_MAX_HANGING = 4
_CANCEL_ROUNDS = 100
"""More awaits than a cancelled step passes in its ``finally`` blocks."""

log = structlog.get_logger(__name__)


def is_retried_later(step: Step, error: SmartserveError, *, retries: int = 0) -> bool:
    """Return whether a failed upload runs again after minutes or hours.

    ``retries`` is how often it already did. `MainApiForbidden` is included because an operator can
    correct the key.
    """
    if isinstance(error, _AMBIGUOUS):
        return retries < _AMBIGUOUS_RETRIES
    # The medium is already served. Only a callback that succeeds makes the main API refer to it,
    # so a rejected callback is repeated until the main API no longer has the upload.
    if step is Step.UPDATE_CALLBACK and isinstance(error, MainApiRefused):
        return True
    return isinstance(error, _RETRIED_LATER)


def failure_reason(step: Step, error: SmartserveError) -> str:
    """Return the sentence for operators: the step, its error, and the message of the system."""
    cause = error.__cause__
    message = cause.strerror if isinstance(cause, OSError) else None
    suffix = f" ({message})" if message and message not in error.detail else ""
    return f"{step}: {error.detail}{suffix}"


class StepTimeouts:
    """Limits how long an attempt may take, and counts attempts that cannot be ended.

    A step that exceeds its limit is cancelled. A step blocked in a system call on a dead file
    system cannot be: it is left behind with its thread and open files until the call returns. It
    writes nothing afterwards, because only its ``finally`` blocks are left to run.
    """

    def __init__(self, settings: IngestSettings, *, grace_s: float = _GRACE_S) -> None:
        """``grace_s`` is the time to clean up after a cancellation."""
        self._step_s = settings.step_timeout_s
        self._render_s = settings.render_timeout_s
        self._grace_s = grace_s
        self._hanging: dict[asyncio.Future[Any], Step] = {}

    async def run(self, step: Step, work: Awaitable[T]) -> T:
        """Await ``work``, and return or raise what it does.

        Raises:
            StepOverdue: the time limit passed. The step may still hang.
        """
        limit_s = self._render_s if step is Step.RESIZE_OPTIMIZE else self._step_s
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

    async def _cancel(self, step: Step, task: asyncio.Future[Any]) -> None:
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
class StepRetrier:
    """Runs steps, with a limited number of attempts in quick succession."""

    progress: IngestProgress
    timeouts: StepTimeouts
    settings: IngestSettings
    worker_id: str
    metrics: IngestMetrics
    spans: SpanChain = field(default_factory=SpanChain)
    """Each step links to the one before it."""

    async def run(self, item: LeasedItem, step: Step, work: StepFunction) -> None:
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
            await self._try(item, step, work, left)
        # The failure cannot be recorded without the database; the lease expires instead.
        except DatabaseUnavailable:
            raise
        except SmartserveError:
            await self.progress.set_step(item.lease, step, StepState.FAILED)
            raise

    async def _try(self, item: LeasedItem, step: Step, work: StepFunction, left: int) -> None:
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

    async def _timed(self, item: LeasedItem, step: Step, work: StepFunction) -> None:
        began, outcome = time.monotonic(), "failed"
        try:
            attributes: dict[str, str | float] = {
                "smartserve.upload.id": item.upload.id,
                "smartserve.upload.type": item.upload.data_type,
                "smartserve.media.id": item.lease.media_id,
            }
            with self.spans.span(f"ingest {step}", item.upload.id, attributes):
                await self.timeouts.run(step, work(item))
            outcome = "ok"
        except StepOverdue:
            outcome = "overdue"
            raise
        finally:
            seconds = time.monotonic() - began
            self.metrics.step(step, item.upload.data_type, seconds=seconds, outcome=outcome)

    def _retry_wait(self, error: Exception) -> bool | float:
        """Return whether to retry, or the seconds to wait if the error defines them."""
        if isinstance(error, DatabaseUnavailable) or not isinstance(error, _RETRIED_NOW):
            return False
        if error.retry_after_s is None:
            return True
        # A longer Retry-After ends the attempts; the upload then runs again later as a whole.
        return error.retry_after_s <= self.settings.max_step_backoff_s and float(
            error.retry_after_s
        )
