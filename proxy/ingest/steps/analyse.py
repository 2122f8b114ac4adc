"""The step ai_visual_analysis: all that is known of a picture, kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from proxy.analysis.analyst import Analyst
from proxy.domain.analysis import AWAITED, Analysis
from proxy.domain.ingest_item import LeasedItem
from proxy.domain.media import DataType, Focus
from proxy.ingest.steps.media_of_item import IngestMediaLoader
from proxy.storage.database.analysis_repository import AnalysisRepository, StoredAnalysis
from proxy.storage.database.ingest_progress import IngestProgress


class AnalyseStep:
    """Analyses media and keeps what was found."""

    def __init__(
        self,
        *,
        shelf: IngestMediaLoader,
        analyst: Analyst,
        analyses: AnalysisRepository,
        progress: IngestProgress,
        changed: Callable[[int], None],
    ) -> None:
        """The rooms and use cases that it works with."""
        self._shelf = shelf
        self._analyst = analyst
        self._analyses = analyses
        self._progress = progress
        self._changed = changed

    async def __call__(self, item: LeasedItem) -> None:
        """Analyse the medium of an upload."""
        await self._examine(item, None)

    async def awaits(self, item: LeasedItem) -> bool:
        """Whether some provider could not answer about the medium and is to be asked again."""
        stored = await self._analyses.find(item.lease.media_id)
        return stored is not None and bool(stored.own.get(AWAITED))

    async def again(self, item: LeasedItem) -> bool:
        """Ask those that the kept analysis awaits, or all where there is none.

        What they say is kept with what was known; where none of them answers all stays as it is.
        Gives whether nobody is awaited any more. Raises as a step does.
        """
        return await self._examine(item, await self._analyses.find(item.lease.media_id))

    async def _examine(self, item: LeasedItem, stored: StoredAnalysis | None) -> bool:
        """Whether all who were asked have answered."""
        media, facts = await self._shelf.take(item)
        context = await self._context(item)
        told = None if stored is None else self._analyst.recall(stored.columns, stored.own)
        found = await self._analyst.analyse(media, facts, site_context=context, told=told)
        if stored is not None and set(found.awaited) == set(stored.own.get(AWAITED) or ()):
            return not found.awaited
        focus = focus_of(found)
        await self._progress.analysed(item.lease, found.columns(), found.own(), focus=focus)
        self._changed(media.id)
        return not found.awaited

    async def _context(self, item: LeasedItem) -> Mapping[str, Any] | None:
        """For sites, what is known here of the user's brand; nothing is made up."""
        if item.upload.data_type is not DataType.SITES:
            return None
        return await self._analyses.brand_of(item.upload.user_id)


def focus_of(analysis: Analysis) -> Focus | None:
    """The middle of what a provider saw most surely and largest; None where none said where.

    It goes before the point that libvips finds, which the facts have already.
    """
    placed = [(one.confidence, one.box) for one in analysis.objects or () if one.box is not None]
    if not placed:
        return None
    _, (left, top, right, bottom) = max(placed, key=lambda one: one[0] * _side(one[1]))
    return Focus(_within((left + right) / 2), _within((top + bottom) / 2))


def _side(box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    return math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))


def _within(fraction: float) -> float:
    return min(1.0, max(0.0, fraction))
