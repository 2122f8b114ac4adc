"""Warming: render what browsers will ask for before they do."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.errors import MediaNotFound
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.database import MediaRepository


@dataclass(frozen=True, slots=True)
class WarmResult:
    """What was done for a medium: renditions made, and those that were there."""

    rendered: int
    present: int


class RenditionWarmer:
    """Renders all named sizes of media in all that browsers can be given, each from one decode."""

    def __init__(
        self,
        *,
        database: MediaRepository,
        inspector: SourceFactsService,
        planner: RenderPlanner,
        finisher: FinalRenderer,
    ) -> None:
        """The use cases and rooms that it works with."""
        self._database = database
        self._inspector = inspector
        self._planner = planner
        self._finisher = finisher

    async def warm(self, media_id: int) -> WarmResult:
        """Render what is missing of a medium.

        Raises:
            SmartserveError: it cannot be rendered now, or at all; what is done stays.
        """
        plans = await self._plans(media_id)
        rendered = await self._finisher.complete(plans)
        return WarmResult(rendered, len(plans) - rendered)

    async def _plans(self, media_id: int) -> list[RenderPlan]:
        media = await self._database.find(media_id)
        if media is None or not media.servable:
            raise MediaNotFound(f"there is no picture to serve under id {media_id}")
        return self._planner.all_plans(media, await self._inspector.facts(media))
