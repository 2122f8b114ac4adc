"""Finds images that look like another one, also mirrored, rotated, smaller or compressed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.perceptual_hash import MAX_DISTANCE, TRANSFORMS, PerceptualHash
from proxy.serving.image_info import ImageInfoService
from proxy.storage.database.media_repository import AnalysisRepository

MAX_COMPARED = 100_000
"""Images that one search compares, newest first. `before` continues it."""
MAX_FOUND = 100
_PAGE = 2000
_TURNED = "What turns the image into this one: " + ", ".join(TRANSFORMS)


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """An image that looks like another one."""

    id: int
    distance: Annotated[float, Field(ge=0, le=1, description="0: equal for the eye.")]
    transform: Annotated[str, Field(description=_TURNED)]


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """The near duplicates of an image, nearest first."""

    id: int
    near_duplicates: Sequence[NearDuplicate]
    compared: Annotated[int, Field(description="Images that were compared.")]
    skipped: Annotated[int, Field(description="Images without a current stored analysis.")]
    next_before: Annotated[
        int | None, Field(description="`before` of the next search; null: all were compared.")
    ]


class NearDuplicateSearch:
    """Compares perceptual hashes of stored analyses; one search at a time."""

    def __init__(self, analyses: AnalysisRepository, describer: ImageInfoService) -> None:
        self._analyses = analyses
        self._describer = describer
        self._semaphore = asyncio.Semaphore(1)

    async def find(self, media: Media, *, before: int = MAX_MEDIA_ID) -> NearDuplicates:
        """Return the near duplicates of an image among those with ids below ``before``.

        The image itself is analysed now if its stored analysis is not current.

        Raises:
            DatabaseUnavailable: the hashes cannot be read.
            SmartserveError: the image cannot be analysed; as `ImageInfoService.describe`.
        """
        stored = await self._analyses.find(media.id)
        own = None if stored is None else stored.perceptual_hash
        if own is None:
            result = await self._describer.result(media)
            own = PerceptualHash.parse(result.phash, result.phash_mask)
        variants = [] if own is None else list(own.variants())
        found: list[NearDuplicate] = []
        compared = skipped = 0
        next_before: int | None = before
        async with self._semaphore:
            while next_before is not None and compared + skipped < MAX_COMPARED:
                page = await self._analyses.hashes(before=next_before, limit=_PAGE)
                next_before = page[-1][0] if len(page) == _PAGE else None
                others = [(media_id, one) for media_id, one in page if media_id != media.id]
                known = [(media_id, one) for media_id, one in others if one is not None]
                compared, skipped = compared + len(known), skipped + len(others) - len(known)
                found += _near(variants, known)
                # A page takes a few milliseconds, in which no other request is served.
                await asyncio.sleep(0)
        found.sort(key=lambda one: (one.distance, one.id))
        return NearDuplicates(media.id, found[:MAX_FOUND], compared, skipped, next_before)


def _near(
    variants: Sequence[PerceptualHash], others: Sequence[tuple[int, PerceptualHash]]
) -> list[NearDuplicate]:
    found = []
    for media_id, other in others:
        distance, at = min(
            ((one.distance(other), at) for at, one in enumerate(variants)), default=(1.0, 0)
        )
        if distance <= MAX_DISTANCE:
            found.append(NearDuplicate(media_id, round(distance, 3), TRANSFORMS[at]))
    return found
