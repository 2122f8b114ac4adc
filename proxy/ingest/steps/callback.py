"""The step ``update_callback``: reports a complete medium to the main API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxy.domain.analysis import public
from proxy.domain.formats import Format
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.domain.render_plan import RenderPlanner
from proxy.domain.upload import LeasedItem, Step, StepState
from proxy.domain.urls import image_url
from proxy.ingest.main_api import MainApi
from proxy.ingest.steps import StepContext
from proxy.ingest.steps.render import plans_of
from proxy.storage.database.analysis_repository import AnalysisRepository, StoredAnalysis


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackStep:
    """Sends the rich payload. ``base_url`` is the address at which media are served."""

    context: StepContext
    api: MainApi
    analyses: AnalysisRepository
    planner: RenderPlanner
    base_url: str

    async def __call__(self, item: LeasedItem) -> None:
        """Send the callback. It is sent again if the worker ends before it is recorded."""
        media, facts = await self.context.current(item)
        plans = plans_of(self.planner, media, facts)
        payload = callback_payload(
            media,
            facts,
            base_url=self.base_url,
            formats=[plan.variant.format for plan in plans],
            stored=await self.analyses.find(media.id),
        )
        await self.api.complete(item.upload.id, payload)
        # After the request: if the worker ends in between, the callback is sent again. The main API
        # accepts it twice.
        await self.context.progress.set_step(item.lease, Step.UPDATE_CALLBACK, StepState.COMPLETED)


def callback_payload(
    media: Media,
    facts: MediaFacts,
    *,
    base_url: str,
    formats: Iterable[Format],
    stored: StoredAnalysis | None,
) -> dict[str, Any]:
    """Return the rich payload: section 12 of the requirements document.

    ``stored`` is None if the analysis is not complete. Unknown values are null. A main API that
    reads the simple payload uses ``media_id`` only.
    """
    served = set(formats)
    return {
        "media_id": str(media.id),
        "permanent_url": image_url(media.id, base=base_url),
        "processing_complete": True,
        "ai_enhanced": stored is not None,
        "formats_available": [str(fmt) for fmt in Format if fmt in served],
        "ai_analysis": _analysis(media, facts, stored),
    }


def _analysis(media: Media, facts: MediaFacts, stored: StoredAnalysis | None) -> dict[str, Any]:
    logo, site = media.data_type == DataType.LOGO, media.data_type == DataType.SITES
    found = {} if stored is None else public(stored.columns, stored.own)
    names = ("style", "medium", "quality_score", "mood_keywords")
    return {
        **{name: found.get(name) for name in names},
        "brand_colors": found.get("brand_colors") if logo else None,
        "site_context": found.get("site_context") if site else None,
        "background_removed": facts.flat_background if logo else None,
    }
