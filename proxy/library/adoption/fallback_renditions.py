"""The reserve: renditions of lesser files, for the time when no worker is free to make any."""

from __future__ import annotations

from proxy.domain.errors import CapacityError, SmartserveError
from proxy.domain.geometry import SizeSpec
from proxy.domain.query import WIDTHS, VariantRequest
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.serving.finals.renderer import FinalRenderer
from proxy.storage.database import MediaRepository

_WHOLE = VariantRequest(SizeSpec(f"w{WIDTHS[-1]}", WIDTHS[-1], None), f"w{WIDTHS[-1]}")
"""The largest box that can be asked for: in it a lesser file has all its own pixels."""


class FallbackRenderer:
    """Makes one rendition of each size that a medium has as a lesser file.

    In the format that every client takes, as a draft: so that each of them can be given it, and
    so that a tree of a hundred thousand pictures is done in hours and not in days. They are
    renditions like all others, and go when they have not been used for long.
    """

    def __init__(
        self, *, database: MediaRepository, planner: RenderPlanner, finisher: FinalRenderer
    ) -> None:
        """The use cases and rooms that it works with."""
        self._database = database
        self._planner = planner
        self._finisher = finisher

    async def fill(self, media_id: int) -> int:
        """Make what is missing; gives how many. What cannot be made is left out.

        Raises:
            CapacityError: the database or the workers cannot be had.
        """
        media = await self._database.find(media_id)
        if media is None:
            return 0
        plans = self._planner.stand_ins(media, _WHOLE, None, known=media.known_facts)
        by_size = {plan.variant.geometry.text: plan for plan in reversed(plans)}
        missing = await self._finisher.missing(list(by_size.values()))
        return sum([await self._made(plan) for plan in missing])

    async def _made(self, plan: RenderPlan) -> bool:
        try:
            finished = await self._finisher.finish([plan])
        except CapacityError:
            raise
        except SmartserveError:
            return False
        return all(not isinstance(one.outcome, SmartserveError) for one in finished)
