"""Attempts: a step of an upload, tried a few times, each counted before it is made."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import stamina

from proxy.domain.errors import DatabaseUnavailable, SmartserveError, StepOverdue, WorkerEnded
from proxy.domain.ingest_item import LeasedItem, StepState
from proxy.domain.media import DataType
from proxy.domain.pending_image import Step
from proxy.ingest.retry_policy import again
from proxy.ingest.step_timeouts import StepTimeouts
from proxy.settings import IngestSettings
from proxy.storage.database.ingest_progress import IngestProgress

Work = Callable[[LeasedItem], Awaitable[None]]
"""A step: it does its part and writes down that it is completed, in one transaction."""


class StepTelemetry(Protocol):
    """Takes note of attempts."""

    def step(self, step: Step, data_type: DataType, *, seconds: float, outcome: str) -> None:
        """An attempt at a step has ended: ``ok``, ``failed`` or ``overdue``."""


class StepRetrier:
    """Tries steps."""

    def __init__(
        self,
        *,
        progress: IngestProgress,
        deadlines: StepTimeouts,
        settings: IngestSettings,
        worker_id: str,
        telemetry: StepTelemetry,
    ) -> None:
        """Where attempts are counted, how long each may take, and how many there are."""
        self._progress = progress
        self._deadlines = deadlines
        self._settings = settings
        self._worker_id = worker_id
        self._telemetry = telemetry

    async def run(self, item: LeasedItem, step: Step, work: Work) -> None:
        """Do a step, again where that may help; what a worker before this one tried counts too.

        Raises:
            SmartserveError: the last attempt failed; that is written down.
            LeaseLost, DatabaseUnavailable: nothing is written down.
        """
        left = self._settings.max_attempts - item.steps[step].attempts
        try:
            if left <= 0:
                raise WorkerEnded("its workers ended in the middle, each time it was tried")
            await self._try(item, step, work, left)
        except DatabaseUnavailable:
            raise
        except SmartserveError:
            await self._progress.note(item.lease, step, StepState.FAILED)
            raise

    async def once(self, item: LeasedItem, look: Callable[[LeasedItem], Awaitable[bool]]) -> bool:
        """Look at an analysis again, within the time of that step; gives what the look gives.

        Raises:
            SmartserveError: as the look does, or StepOverdue.
        """
        found: list[bool] = []

        async def work() -> None:
            found.append(await look(item))

        await self._deadlines.run(Step.AI_VISUAL_ANALYSIS, work())
        return found[0]

    async def _try(self, item: LeasedItem, step: Step, work: Work, left: int) -> None:
        async for attempt in stamina.retry_context(
            on=self._wait,
            attempts=left,
            timeout=None,
            wait_initial=self._settings.first_wait_s,
            wait_max=self._settings.max_wait_s,
            wait_jitter=self._settings.first_wait_s,
        ):
            with attempt:
                await self._progress.begin(item.lease, step, worker_id=self._worker_id)
                await self._timed(item, step, work)

    async def _timed(self, item: LeasedItem, step: Step, work: Work) -> None:
        began, outcome = time.monotonic(), "failed"
        try:
            await self._deadlines.run(step, work(item))
            outcome = "ok"
        except StepOverdue:
            outcome = "overdue"
            raise
        finally:
            seconds = time.monotonic() - began
            self._telemetry.step(step, item.upload.data_type, seconds=seconds, outcome=outcome)

    def _wait(self, error: Exception) -> bool | float:
        """Whether to try again; seconds where it is said how long to wait."""
        if not isinstance(error, SmartserveError) or isinstance(error, DatabaseUnavailable):
            return False
        if not again(error):
            return False
        if error.retry_after_s is None:
            return True
        # Who asks for a longer rest is asked again when the upload is healed.
        return error.retry_after_s <= self._settings.max_wait_s and float(error.retry_after_s)
