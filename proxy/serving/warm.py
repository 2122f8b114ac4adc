"""Warming: renders what browsers will request, before they do."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.errors import MediaNotFound
from proxy.domain.render_plan import RenderPlanner
from proxy.serving.finals.renderer import FinalRenderer
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.database import MediaRepository


@dataclass(frozen=True, slots=True)
class WarmResult:
    """Renditions of a medium that were rendered, and those that were already stored."""

    rendered: int
    present: int


class RenditionWarmer:
    """Renders all named sizes of a medium in all formats that browsers accept, with one decode."""

    def __init__(
        self,
        *,
        database: MediaRepository,
        facts: SourceFactsService,
        planner: RenderPlanner,
        renderer: FinalRenderer,
    ) -> None:
        self._database = database
        self._facts = facts
        self._planner = planner
        self._renderer = renderer

    async def warm(self, media_id: int) -> WarmResult:
        """Render the missing renditions of a medium.

        Raises:
            SmartserveError: one could not be rendered; those before it are stored.
        """
        media = await self._database.find(media_id)
        if media is None or not media.servable:
            raise MediaNotFound(f"there is no image to serve under id {media_id}")
        facts = await self._renderer.with_faces(media, await self._facts.facts(media))
        plans = self._planner.all_plans(media, facts)
        rendered = await self._renderer.complete(plans)
        return WarmResult(rendered, len(plans) - rendered)
