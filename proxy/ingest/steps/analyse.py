"""The step ``ai_visual_analysis``: stores an analysis, and completes it later if necessary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.analysis.analyst import Analyst
from proxy.domain.analysis import PENDING_PROVIDERS, Analysis
from proxy.domain.media import DataType, Focus
from proxy.domain.upload import LeasedItem
from proxy.ingest.steps import StepContext
from proxy.storage.database.analysis_repository import AnalysisRepository, StoredAnalysis


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyseStep:
    """Analyses media and stores the results."""

    context: StepContext
    analyst: Analyst
    analyses: AnalysisRepository

    async def __call__(self, item: LeasedItem) -> None:
        """Analyse the medium of an upload."""
        await self._analyse(item, None)

    async def is_incomplete(self, item: LeasedItem) -> bool:
        """Return whether a provider was unavailable and should be requested again."""
        stored = await self.analyses.find(item.lease.media_id)
        return stored is not None and bool(stored.own.get(PENDING_PROVIDERS))

    async def complete(self, item: LeasedItem) -> bool:
        """Request what the stored analysis lacks, or everything if none is stored.

        Earlier results are kept. Return whether the analysis is complete now.
        """
        return await self._analyse(item, await self.analyses.find(item.lease.media_id))

    async def _analyse(self, item: LeasedItem, stored: StoredAnalysis | None) -> bool:
        media, facts = await self.context.current(item)
        site_context = await self._site_context(item)
        earlier = None if stored is None else self.analyst.recall(stored.columns, stored.own)
        found = await self.analyst.analyse(media, facts, site_context=site_context, earlier=earlier)
        # Without a new answer the stored analysis stays: it may be better, for example in its text.
        if stored is not None and set(found.pending_providers) == set(
            stored.own.get(PENDING_PROVIDERS) or ()
        ):
            return not found.pending_providers
        await self.context.progress.save_analysis(
            item.lease, found.columns(), found.own(), focus=focus_of(found)
        )
        self.context.changed(media.id)
        return not found.pending_providers

    async def _site_context(self, item: LeasedItem) -> Mapping[str, Any] | None:
        """Return the brand colours of the user, for images of sites only."""
        # The callback of other types has no site context.
        if item.upload.data_type is not DataType.SITES:
            return None
        return await self.analyses.find_brand(item.upload.user_id)


def focus_of(analysis: Analysis) -> Focus | None:
    """Return the centre of the most prominent object, or None if no provider located one.

    Prominence is confidence times the side of the box. This focus takes precedence over the one
    that libvips computes.
    """
    located = [(one.confidence, one.box) for one in analysis.objects or () if one.box is not None]
    if not located:
        return None
    _, (left, top, right, bottom) = max(located, key=lambda one: one[0] * _side(one[1]))
    return Focus(_clamped((left + right) / 2), _clamped((top + bottom) / 2))


def _side(box: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box
    return math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))


def _clamped(fraction: float) -> float:
    return min(1.0, max(0.0, fraction))
