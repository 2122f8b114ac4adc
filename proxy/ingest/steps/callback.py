"""The step update_callback: the main API hears that the medium is there."""

from __future__ import annotations

from proxy.domain.ingest_item import LeasedItem, StepState
from proxy.domain.pending_image import Step
from proxy.domain.render_plan import RenderPlanner
from proxy.ingest.main_api import MainApi
from proxy.ingest.steps.callback_payload import payload_of
from proxy.ingest.steps.media_of_item import IngestMediaLoader
from proxy.ingest.steps.render import plans_of
from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.storage.database.ingest_progress import IngestProgress


class CallbackStep:
    """Tells the main API of media that are complete."""

    def __init__(
        self,
        *,
        api: MainApi,
        shelf: IngestMediaLoader,
        analyses: AnalysisRepository,
        planner: RenderPlanner,
        progress: IngestProgress,
        base: str,
    ) -> None:
        """The rooms it works with; ``base`` is where media are served."""
        self._api = api
        self._shelf = shelf
        self._analyses = analyses
        self._planner = planner
        self._progress = progress
        self._base = base

    async def __call__(self, item: LeasedItem) -> None:
        """Send the rich payload; a worker that is ended now sends it once more."""
        media, facts = await self._shelf.take(item)
        payload = payload_of(
            media,
            facts,
            base=self._base,
            formats=[plan.variant.format for plan in plans_of(self._planner, media, facts)],
            stored=await self._analyses.find(media.id),
        )
        await self._api.complete(item.upload.id, payload)
        await self._progress.note(item.lease, Step.UPDATE_CALLBACK, StepState.COMPLETED)
