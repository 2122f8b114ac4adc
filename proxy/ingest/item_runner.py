"""Taking: one upload through its steps, from where it stands, to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from proxy.domain.errors import (
    DatabaseUnavailable,
    IngestError,
    LeaseLost,
    SmartserveError,
    UploadGone,
)
from proxy.domain.ingest_item import ItemOutcome, LeasedItem
from proxy.domain.pending_image import Step
from proxy.ingest.main_api import MainApi
from proxy.ingest.retry_policy import heals, reason_of
from proxy.ingest.step_retry import StepRetrier, Work
from proxy.settings import IngestSettings
from proxy.storage.database.ingest_queue import IngestQueue

log = structlog.get_logger(__name__)


class AnalysisRetry(Protocol):
    """Looks at analyses again; `proxy.ingest.steps.analyse.AnalyseStep` does."""

    async def awaits(self, item: LeasedItem) -> bool:
        """Whether somebody could not answer and is to be asked again."""

    async def again(self, item: LeasedItem) -> bool:
        """Ask; whether nobody is awaited any more."""


class ItemRunner:
    """Does what is left to do of an upload."""

    def __init__(
        self,
        *,
        api: MainApi,
        queue: IngestQueue,
        attempts: StepRetrier,
        steps: Mapping[Step, Work],
        revisits: AnalysisRetry | None = None,
        settings: IngestSettings,
        changed: Callable[[int], None],
    ) -> None:
        """``steps`` are done in the order of `Step`; those that are not there are left out.

        Without ``revisits`` no analysis is looked at again.
        """
        self._api = api
        self._queue = queue
        self._attempts = attempts
        self._steps = steps
        self._revisits = revisits
        self._settings = settings
        self._changed = changed

    async def take(self, item: LeasedItem) -> ItemOutcome:
        """Bring an upload to an end, and write down which.

        Raises:
            LeaseLost: another worker has it now.
            DatabaseUnavailable: nothing can be written down; its lease runs out.
        """
        if item.owed:
            await self._tell(item, times=item.heals)
            return ItemOutcome.OWED
        if item.revisited:
            return await self._revisit(item)
        missed = False
        for step in Step:
            if step not in self._steps or item.is_done(step):
                continue
            try:
                await self._attempts.run(item, step, self._steps[step])
            except (LeaseLost, DatabaseUnavailable):
                raise
            except SmartserveError as error:
                if step is not Step.AI_VISUAL_ANALYSIS:
                    return await self._fail(item, step, error)
                log.warning("analysis_failed", **_named(item), reason=error.detail)
                missed = heals(step, error)
        await self._finish(item, missed=missed)
        log.info("upload_done", **_named(item))
        return ItemOutcome.DONE

    async def _finish(self, item: LeasedItem, *, missed: bool) -> None:
        """``missed``: it has no analysis, for a reason that may pass."""
        wait_s = self._again_in_s(0)
        revisits = self._revisits
        if revisits is None or wait_s is None or not (missed or await revisits.awaits(item)):
            await self._queue.finish(item.lease)
        else:
            await self._queue.finish_incomplete(item.lease, again_in_s=wait_s)

    async def _revisit(self, item: LeasedItem) -> ItemOutcome:
        """Whatever comes of it, the picture is served and the main API has been told."""
        seen = False
        try:
            seen = self._revisits is None or await self._attempts.once(item, self._revisits.again)
        except (LeaseLost, DatabaseUnavailable):
            raise
        except SmartserveError as error:
            log.warning("analysis_failed", **_named(item), reason=error.detail)
        wait_s = None if seen else self._again_in_s(item.heals)
        log.info("analysis_revisited", **_named(item), seen=seen, again_in_s=wait_s)
        await self._queue.leave(item.lease, again_in_s=wait_s)
        return ItemOutcome.SEEN if seen else ItemOutcome.UNSEEN

    def _again_in_s(self, times: int) -> float | None:
        """How long to wait with an analysis that was looked at again so often; None: for ever."""
        waits = self._settings.ask_again_s
        return waits[times] if times < len(waits) else None

    async def _fail(self, item: LeasedItem, step: Step, error: SmartserveError) -> ItemOutcome:
        reason = reason_of(step, error)
        if item.heals < self._settings.max_heals and heals(step, error, times=item.heals):
            wait_s = heal_wait_s(self._settings, item.heals)
            log.warning("upload_failed", **_named(item), reason=reason, again_in_s=wait_s)
            await self._queue.fail(item.lease, reason, again_in_s=wait_s)
            return ItemOutcome.LATER
        log.warning("upload_failed_for_good", **_named(item), reason=reason)
        await self._queue.fail_for_good(item.lease, reason)
        self._changed(item.lease.media_id)
        await self._tell(item, times=0)
        return ItemOutcome.FAILED

    async def _tell(self, item: LeasedItem, *, times: int) -> None:
        """The main API deletes its temporary file then; one that has forgotten it knows enough."""
        try:
            await self._api.cleanup(item.upload.id)
        except UploadGone:
            pass
        except IngestError as error:
            if times < self._settings.max_heals:
                await self._queue.tell_later(
                    item.lease, again_in_s=heal_wait_s(self._settings, times)
                )
                return
            log.warning("failure_never_told", **_named(item), reason=error.detail)
        await self._queue.told(item.lease)


def heal_wait_s(settings: IngestSettings, times: int) -> float:
    """How long to leave an upload alone that was healed so many times."""
    return min(settings.max_heal_wait_s, settings.heal_after_s * 2.0 ** min(times, 32))


def _named(item: LeasedItem) -> dict[str, int]:
    return {"main_api_id": item.upload.id, "media_id": item.lease.media_id}
