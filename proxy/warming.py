"""Warming: render what browsers will ask for before they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.database import MediaDatabase
from proxy.delivery import Delivery, Plan
from proxy.errors import MediaNotFound
from proxy.formats import TRAITS, Format
from proxy.variant import SizeSpec, VariantRequest


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was done for a medium: renditions made, and those that were there."""

    rendered: int
    present: int


class Warmer:
    """Renders all named sizes of media in every format that negotiation can choose."""

    def __init__(
        self,
        *,
        database: MediaDatabase,
        delivery: Delivery,
        sizes: Mapping[str, SizeSpec],
        order: tuple[Format, ...],
    ) -> None:
        """``order`` holds the formats that negotiation may choose."""
        self._database = database
        self._delivery = delivery
        self._sizes = sizes
        self._accepts = ["", *(TRAITS[fmt].media_type for fmt in order)]

    async def warm(self, media_id: int) -> Warmed:
        """Render what is missing of a medium, one rendition after the other.

        Raises:
            SmartserveError: it cannot be rendered now, or at all; what is done stays.
        """
        plans = await self._plans(media_id)
        rendered = 0
        for plan in plans:
            rendered += await self._delivery.warm(plan)
        return Warmed(rendered, len(plans) - rendered)

    async def _plans(self, media_id: int) -> list[Plan]:
        media = await self._database.find(media_id)
        if media is None or not media.servable:
            raise MediaNotFound(f"there is no picture to serve under id {media_id}")
        plans = [
            await self._delivery.plan(media, VariantRequest(size, name), accept)
            for name, size in self._sizes.items()
            for accept in self._accepts
        ]
        return list({plan.variant.digest: plan for plan in plans}.values())
