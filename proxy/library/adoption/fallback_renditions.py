"""Renders fallbacks of adopted media in advance, for times when no worker is free."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from proxy.domain.errors import CapacityError, MediaRowInvalid, SmartserveError
from proxy.domain.render_plan import RenderPlanner
from proxy.domain.request import WIDTHS, VariantRequest, width_box
from proxy.serving.finals.renderer import FinalRenderer
from proxy.storage.database.media_repository import SqlMediaRepository

_FULL_SIZE = VariantRequest(width_box(WIDTHS[-1]))
"""The widest request: a premade file keeps its own size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackRenderer:
    """Renders one rendition for each premade size of a medium.

    Each is a draft in the format that every client accepts: a tree of 100,000 images then takes
    hours and not days. Eviction treats them like all other renditions.
    """

    database: SqlMediaRepository
    planner: RenderPlanner
    finals: FinalRenderer

    async def fill(self, media_id: int) -> int:
        """Render what is missing, and return the number. Damaged files are skipped.

        Raises:
            CapacityError: the database or the workers are unavailable.
        """
        media = None
        # The row is logged, and the other media are filled.
        with suppress(MediaRowInvalid):
            media = await self.database.find(media_id)
        if media is None:
            return 0
        plans = self.planner.fallback_plans(media, _FULL_SIZE, None, known=media.known_facts)
        # Reversed, so that the first plan of a size, the best one, stays.
        by_size = {plan.variant.geometry.text: plan for plan in reversed(plans)}
        rendered = 0
        # One job for each: every size has a file of its own as its source.
        for plan in await self.finals.missing(list(by_size.values())):
            try:
                (finished,) = await self.finals.finish([plan])
            except CapacityError:
                raise
            # The file of this size is damaged or gone; the others may be sound.
            except SmartserveError:
                continue
            rendered += not isinstance(finished.outcome, SmartserveError)
        return rendered
