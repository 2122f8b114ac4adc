"""Runs one upload through its remaining steps and records the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from proxy.domain.errors import (
    DatabaseUnavailable,
    IngestError,
    LeaseLost,
    SmartserveError,
    UploadGone,
)
from proxy.domain.upload import ItemOutcome, LeasedItem, Step
from proxy.ingest.main_api import MainApi
from proxy.ingest.step_retry import StepFunction, StepRetrier, failure_reason, is_retried_later
from proxy.ingest.steps.analyse import AnalyseStep
from proxy.settings import IngestSettings
from proxy.storage.database.ingest_queue import IngestQueue

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRunner:
    """Runs leased uploads.

    Steps run in the order of `Step`; one that is missing in ``steps`` is skipped. If ``analyses``
    is None, incomplete analyses are not requested again. ``changed`` is called with the media id
    after each change of a row.
    """

    api: MainApi
    queue: IngestQueue
    retrier: StepRetrier
    steps: Mapping[Step, StepFunction]
    analyses: AnalyseStep | None = None
    settings: IngestSettings
    changed: Callable[[int], None]

    async def run(self, item: LeasedItem) -> ItemOutcome:
        """Finish an upload and record how it ended.

        Raises:
            LeaseLost: another worker owns the upload now.
            DatabaseUnavailable: nothing could be recorded; the lease expires.
        """
        # The upload failed permanently before; only the report to the main API is missing.
        if item.report_due:
            await self._report_failure(item, retries=item.retries)
            return ItemOutcome.REPORTED
        # The upload is done and reported; only its analysis is incomplete.
        if item.analysis_only:
            return await self._retry_analysis(item)
        analysis_pending = False
        for step in Step:
            # Completed by this worker before a failure, or by a worker that died afterwards.
            if step not in self.steps or item.is_done(step):
                continue
            try:
                await self.retrier.run(item, step, self.steps[step])
            # Fencing: without the lease, or without the database, no outcome may be recorded.
            except (LeaseLost, DatabaseUnavailable):
                raise
            except SmartserveError as error:
                # An image without an analysis can still be served, so the upload continues.
                if step is not Step.AI_VISUAL_ANALYSIS:
                    return await self._fail(item, step, error)
                log.warning("analysis_failed", **_ids(item), reason=error.detail)
                analysis_pending = is_retried_later(step, error)
        await self._finish(item, analysis_pending=analysis_pending)
        log.info("upload_done", **_ids(item))
        return ItemOutcome.DONE

    async def _finish(self, item: LeasedItem, *, analysis_pending: bool) -> None:
        wait_s = self._analysis_wait_s(0)
        analyses = self.analyses
        if analyses is None or wait_s is None:
            await self.queue.finish(item.lease)
        # Either the step failed, or it succeeded without one of the providers.
        elif analysis_pending or await analyses.is_incomplete(item):
            await self.queue.finish_incomplete(item.lease, again_in_s=wait_s)
        else:
            await self.queue.finish(item.lease)

    async def _retry_analysis(self, item: LeasedItem) -> ItemOutcome:
        """Request a missing analysis again. The upload stays done, whatever the result."""
        complete = self.analyses is None
        try:
            if self.analyses is not None:
                work = self.analyses.complete(item)
                complete = await self.retrier.timeouts.run(Step.AI_VISUAL_ANALYSIS, work)
        except (LeaseLost, DatabaseUnavailable):
            raise
        except SmartserveError as error:
            log.warning("analysis_failed", **_ids(item), reason=error.detail)
        wait_s = None if complete else self._analysis_wait_s(item.retries)
        log.info("analysis_retried", **_ids(item), complete=complete, again_in_s=wait_s)
        await self.queue.finish_revisit(item.lease, again_in_s=wait_s)
        return ItemOutcome.ANALYSED if complete else ItemOutcome.ANALYSIS_MISSING

    def _analysis_wait_s(self, retries: int) -> float | None:
        """Return the wait before the next request, or None after the last one."""
        waits = self.settings.analysis_retry_s
        return waits[retries] if retries < len(waits) else None

    async def _fail(self, item: LeasedItem, step: Step, error: SmartserveError) -> ItemOutcome:
        reason, retries = failure_reason(step, error), item.retries
        # The lease is freed with the failure, so any worker may run the upload again.
        if retries < self.settings.max_retries and is_retried_later(step, error, retries=retries):
            wait_s = retry_wait_s(self.settings, retries)
            log.warning("upload_failed", **_ids(item), reason=reason, again_in_s=wait_s)
            await self.queue.fail(item.lease, reason, again_in_s=wait_s)
            return ItemOutcome.RETRY
        log.warning("upload_failed_permanently", **_ids(item), reason=reason)
        await self.queue.fail_permanently(item.lease, reason)
        # Caches must not serve a medium whose row is now failed.
        self.changed(item.lease.media_id)
        await self._report_failure(item, retries=0)
        return ItemOutcome.FAILED

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


def retry_wait_s(settings: IngestSettings, retries: int) -> float:
    """Return the wait before an upload runs again: doubled with each retry, up to a maximum."""
    # 2 ** 32 s exceeds every maximum; a larger exponent could overflow a float.
    return min(settings.max_retry_backoff_s, settings.retry_backoff_s * 2.0 ** min(retries, 32))


def _ids(item: LeasedItem) -> dict[str, int]:
    return {"main_api_id": item.upload.id, "media_id": item.lease.media_id}
