"""Describing: what a page wants to know of a picture before the picture itself is there.

What a stored analysis has is taken from it; the rest is found out in a worker, once for all who
ask, and kept in memory for as long as the picture has the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cachetools import LRUCache, TTLCache

from proxy.domain.errors import DatabaseUnavailable, SmartserveError, SourceChanged
from proxy.domain.formats import TRAITS, EncoderProfile, Format
from proxy.domain.geometry import SizeSpec, plan_geometry
from proxy.domain.media import Media, MediaFacts
from proxy.domain.worker_protocol import (
    AnalyseJob,
    AnalysisResult,
    Limits,
    RenderOutput,
    RenditionSet,
)
from proxy.runtime.single_flight import SharedResults
from proxy.serving.job_dispatch import JobDispatcher

MAX_DATA_URI = 700
"""Characters of a placeholder in a ``data:`` address."""

_TRIES = ((32, 30), (24, 20), (16, 10), (8, 1))
"""Longer side in pixels and quality of WebP; the first that fits into `MAX_DATA_URI` is taken."""
_KEPT = 4096
_TOLD_S = 60.0
"""For how long it is believed what is stored, and that nothing is."""


class StoredAnalysisColumns(Protocol):
    """An analysis that was stored: its columns, and what they have no place for."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """As `proxy.domain.analysis.Analysis.columns` gave them."""

    @property
    def own(self) -> Mapping[str, Any]:
        """The value of `proxy.domain.analysis.Analysis.own`; empty if another program analysed."""


class AnalysisSource(Protocol):
    """Where analyses are stored."""

    async def find(self, media_id: int) -> StoredAnalysisColumns | None:
        """The latest analysis of a medium, or None; raises DatabaseUnavailable."""

    async def thumbhashes(self, media_ids: Collection[int]) -> Mapping[int, str]:
        """Of these media, the stored ThumbHashes; raises DatabaseUnavailable."""


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """What the pixels of a picture tell."""

    thumbhash: str
    """In base 64."""
    blurhash: str
    data_uri: str
    """A tiny WebP, `MAX_DATA_URI` characters at most."""
    dominant_colours: Sequence[Mapping[str, Any]]
    """``hex`` and ``percent``, the most frequent first."""
    quality_score: int
    mood_keywords: Sequence[str]
    kind: str


@dataclass(frozen=True, slots=True)
class AnalysisFacts:
    """What those who were asked about a picture told; None where nobody could."""

    alt: str | None = None
    style: str | None = None
    medium: str | None = None
    mood_keywords: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A picture in words and figures."""

    facts: MediaFacts
    looks: PixelFacts
    told: AnalysisFacts


class SourceFactsLoader(Protocol):
    """Who knows the facts of media."""

    async def facts(self, media: Media) -> MediaFacts:
        """The facts of a medium, learned now if they are not known."""

    async def learn(self, media: Media) -> MediaFacts:
        """The same, read anew whatever is known."""


_Key = tuple[int, str]


class ImageInfoService:
    """Describes media; it owns the work that it has begun, until `aclose`."""

    def __init__(
        self,
        *,
        workshop: JobDispatcher,
        inspector: SourceFactsLoader,
        known: AnalysisSource,
        limits: Limits,
        at_once: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``at_once`` pictures are looked at, so that a list of them leaves workers to visitors."""
        self._workshop = workshop
        self._inspector = inspector
        self._known = known
        self._limits = limits
        self._room = asyncio.Semaphore(at_once)
        self._looks: LRUCache[_Key, PixelFacts] = LRUCache(_KEPT)
        self._stored: TTLCache[int, StoredAnalysisColumns | None] = TTLCache(
            _KEPT, _TOLD_S, timer=clock
        )
        self._shared: SharedResults[PixelFacts] = SharedResults()

    async def describe(self, media: Media) -> ImageInfo:
        """Describe a medium.

        Raises:
            RenderError: the picture cannot be decoded, or is past a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker is free in time.
        """
        media, facts = await self._facts(media)
        stored = await self._find(media.id)
        try:
            looks = await self._look_of(media, facts, stored)
        except SourceChanged:
            facts = await self._inspector.learn(media)
            looks = await self._look_of(media, facts, stored)
        return ImageInfo(facts, looks, AnalysisFacts() if stored is None else _told(stored))

    async def thumbhashes(self, pictures: Sequence[Media]) -> Mapping[int, str]:
        """Of these media, the ThumbHashes that are known already; nothing is worked out."""
        found: dict[int, str] = {}
        for media in pictures:
            facts = media.known_facts
            if facts is not None and (looks := self._looks.get((media.id, facts.content_hash))):
                found[media.id] = looks.thumbhash
        missing = [media.id for media in pictures if media.id not in found]
        try:
            return {**(await self._known.thumbhashes(missing) if missing else {}), **found}
        except DatabaseUnavailable:
            return found

    def forget(self, media_id: int) -> None:
        """What is stored about a medium may be something else now."""
        self._stored.pop(media_id, None)

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self._shared.aclose()

    async def _facts(self, media: Media) -> tuple[Media, MediaFacts]:
        """The facts of a medium, or of the largest lesser file where its source has none."""
        try:
            return media, await self._inspector.facts(media)
        except SmartserveError:
            if not media.fallbacks:
                raise
        largest = max(media.fallbacks, key=lambda facts: facts.width * facts.height)
        return media.with_source(largest), largest

    async def _find(self, media_id: int) -> StoredAnalysisColumns | None:
        """What is stored; a database that cannot be asked costs the words, not the answer."""
        if media_id not in self._stored:
            try:
                self._stored[media_id] = await self._known.find(media_id)
            except DatabaseUnavailable:
                return None
        return self._stored.get(media_id)

    async def _look_of(
        self, media: Media, facts: MediaFacts, stored: StoredAnalysisColumns | None
    ) -> PixelFacts:
        looks = self._looks.get((media.id, facts.content_hash))
        if looks is not None:
            return looks
        key = f"{media.id}/{facts.content_hash}"
        return await self._shared.result(key, lambda: self._learn(media, facts, stored))

    async def _learn(
        self, media: Media, facts: MediaFacts, stored: StoredAnalysisColumns | None
    ) -> PixelFacts:
        async with self._room:
            looks = await self._look(media, facts, stored)
        self._looks[media.id, facts.content_hash] = looks
        return looks

    async def _look(
        self, media: Media, facts: MediaFacts, stored: StoredAnalysisColumns | None
    ) -> PixelFacts:
        data_uri = await self._data_uri(media, facts)
        if stored is not None and _complete(stored):
            return _looks_of(stored, data_uri)
        done = await self._workshop.run(media, AnalyseJob(self._limits))
        return _looks(done.result, data_uri)

    async def _data_uri(self, media: Media, facts: MediaFacts) -> str:
        """A tiny picture that fits; of the last and smallest not even noise comes near."""
        text = ""
        for side, quality in _TRIES:
            encoded = base64.b64encode(await self._tiny(media, facts, side, quality)).decode()
            text = f"data:{TRAITS[Format.WEBP].media_type};base64,{encoded}"
            if len(text) <= MAX_DATA_URI:
                break
        return text

    async def _tiny(self, media: Media, facts: MediaFacts, side: int, quality: int) -> bytes:
        profile = EncoderProfile(Format.WEBP, (("Q", quality), ("alpha_q", 10), ("effort", 4)))
        geometry = plan_geometry(SizeSpec("tiny", side, side), facts)
        job = RenditionSet(self._limits, (RenderOutput(geometry, profile),))
        return await self._workshop.encoded(media, job, byte_size=facts.byte_size)


def _complete(stored: StoredAnalysisColumns) -> bool:
    """Whether a stored analysis has all that the pixels tell; those of other programs have not."""
    own = stored.own
    return bool(own.get("thumbhash") and own.get("blurhash") and stored.columns["dominant_colors"])


def _looks(result: AnalysisResult, data_uri: str) -> PixelFacts:
    return PixelFacts(
        thumbhash=result.thumbhash,
        blurhash=result.blurhash,
        data_uri=data_uri,
        dominant_colours=[asdict(one) for one in result.dominant_colours],
        quality_score=round(result.quality.score),
        mood_keywords=result.mood_keywords,
        kind=result.kind.name,
    )


def _looks_of(stored: StoredAnalysisColumns, data_uri: str) -> PixelFacts:
    columns, own = stored.columns, stored.own
    return PixelFacts(
        thumbhash=own["thumbhash"],
        blurhash=own["blurhash"],
        data_uri=data_uri,
        dominant_colours=columns["dominant_colors"],
        quality_score=columns["quality_score"],
        mood_keywords=columns["mood_keywords"] or (),
        kind=own["kind"]["name"],
    )


def _told(stored: StoredAnalysisColumns) -> AnalysisFacts:
    columns = stored.columns
    return AnalysisFacts(
        alt=columns["subject_matter"] or None,
        style=columns["style_classification"],
        medium=columns["medium_detected"],
        mood_keywords=columns["mood_keywords"],
    )
