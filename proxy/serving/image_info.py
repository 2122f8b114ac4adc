"""Image info: placeholders, colours, quality and texts of an image, without the image itself.

A stored analysis is used where there is one. The rest is computed in a worker, once for all
simultaneous requests, and cached by the content hash of the source.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, cast

import structlog
from cachetools import LRUCache, TTLCache

from proxy.domain.analysis import PUBLIC_TYPES, Analysis, AnalysisResult, SourceGamut
from proxy.domain.errors import CapacityError, DatabaseUnavailable, SmartserveError, SourceChanged
from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import Media, MediaFacts
from proxy.domain.variant import EncoderProfile, SizeSpec, plan_geometry
from proxy.domain.worker_protocol import AnalyseJob, Limits, RenderOutput, RenditionSet
from proxy.runtime.single_flight import SharedResults
from proxy.serving.job_dispatch import JobDispatcher
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.database.choices import AltTextRepository
from proxy.storage.database.media_repository import AnalysisRepository

MAX_DATA_URI = 700
"""Characters of a placeholder as a ``data:`` URI."""

_TRIES = ((32, 30), (24, 20), (16, 10), (8, 1))
"""Longer side in pixels and WebP quality. The first placeholder within `MAX_DATA_URI` is used;
the last one is far below it, even for noise."""
_MAX_ITEMS = 4096
_NOTHING: Mapping[str, Any] = dict.fromkeys(PUBLIC_TYPES)
_MAX_SCORE = 100
_STORED_S = 60.0
"""Time for which a stored analysis, or the lack of one, is cached."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """Facts that are computed from the pixels of an image."""

    thumbhash: str
    """Base64."""
    blurhash: str
    data_uri: str
    """A tiny WebP of at most `MAX_DATA_URI` characters."""
    dominant_colours: Sequence[Mapping[str, Any]]
    """``hex`` and ``percent``, the most frequent first."""
    quality_score: int
    mood_keywords: Sequence[str]
    kind: str
    gamut: SourceGamut | None = None
    """None if the stored analysis has none: it was made by an earlier release."""


@dataclass(frozen=True, slots=True)
class AnalysisFacts:
    """The stored analysis of an image; None if there is no such value."""

    alt: str | None = None
    style: str | None = None
    medium: str | None = None
    mood_keywords: Sequence[str] | None = None
    details: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """The values of `PUBLIC_TYPES`."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The facts of an image, its pixel facts, and its texts."""

    facts: MediaFacts
    pixels: PixelFacts
    analysis: AnalysisFacts
    alt_texts: Mapping[str, str] = field(default_factory=dict)
    """Written by people, by language."""
    lasting: bool = True
    """False: the original, the analysis or the texts could not be read, so a later description may
    differ."""


class ReadableSource(NamedTuple):
    """The file by which an image is described, and its facts."""

    media: Media
    facts: MediaFacts
    original: bool
    """False: a lesser file, because the original could not be read."""


class AltTexts(NamedTuple):
    """The alternative texts of an image."""

    by_language: Mapping[str, str]
    """Written by people."""
    described: str | None
    """Written by a model."""
    complete: bool = True
    """False: the database could not be read."""


class ImageInfoService:
    """Describes images; owns the running computations until `aclose`."""

    def __init__(
        self,
        *,
        dispatcher: JobDispatcher,
        facts: SourceFactsService,
        analyses: AnalysisRepository,
        alt_texts: AltTextRepository,
        limits: Limits,
        concurrency: int = 2,
        slow_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``concurrency`` limits the workers in use, so that a list leaves some to renders.

        An image that takes longer than ``slow_s`` no longer counts, so it does not block others.
        """
        self._dispatcher = dispatcher
        self._facts = facts
        self._analyses = analyses
        self._alt_texts = alt_texts
        self._limits = limits
        self._semaphore = asyncio.Semaphore(concurrency)
        self._slow_s = slow_s
        self._placeholders: LRUCache[tuple[int, str], str] = LRUCache(_MAX_ITEMS)
        self._results: LRUCache[tuple[int, str], AnalysisResult] = LRUCache(_MAX_ITEMS)
        self._stored: TTLCache[int, Analysis | None] = TTLCache(_MAX_ITEMS, _STORED_S, timer=clock)
        self._reads: list[set[int]] = []
        """Media of the running queries whose results may be cached."""
        self._texts: TTLCache[int, Mapping[str, str]] = TTLCache(_MAX_ITEMS, _STORED_S, timer=clock)
        self._shared: SharedResults[tuple[str, AnalysisResult | None]] = SharedResults()

    async def describe(self, media: Media) -> ImageInfo:
        """Return the info of an image.

        Raises:
            RenderError: the image cannot be decoded, or exceeds a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker became free in time.
        """
        source = await self.readable(media)
        stored, analysis_read = await self._find_stored(media.id)
        analysed = stored is None or not _is_complete(stored)
        source, data_uri, result = await self._compute(source, analysed=analysed)
        if result is not None:
            pixels = _pixels_of_result(result, data_uri)
            if stored is not None:
                stored = stored.renewed(result, media.data_type) if stored.outdated else stored
                pixels = _with_columns(pixels, stored.columns)
        else:
            pixels = _pixels_of_stored(cast("Analysis", stored), data_uri)
        texts, texts_read = await self._find_texts(media.id)
        lasting = source.original and analysis_read and texts_read
        return ImageInfo(source.facts, pixels, _analysis_facts(stored), texts, lasting)

    async def alt_texts(self, media_id: int) -> AltTexts:
        """Return the alternative texts of people and of a model; those that can be read."""
        stored, analysis_read = await self._find_stored(media_id)
        texts, texts_read = await self._find_texts(media_id)
        return AltTexts(texts, _analysis_facts(stored).alt, analysis_read and texts_read)

    async def readable(self, media: Media) -> ReadableSource:
        """Return the original with its facts, or the largest lesser file if it cannot be read.

        If the facts are known, the file is not opened. Raises as `describe`.
        """
        try:
            return ReadableSource(media, await self._facts.facts(media), original=True)
        except SmartserveError:
            if not media.fallbacks:
                raise
        return _lesser(media)

    async def result(self, media: Media) -> AnalysisResult:
        """Return the analysis of an image's pixels; raises as `describe`."""
        *_, result = await self._compute(await self.readable(media), analysed=True)
        return cast("AnalysisResult", result)

    async def current(self, media: Media, stored: Analysis) -> Analysis:
        """Return a stored analysis with the values that `describe` has, if it is outdated.

        If the pixels cannot be analysed now, it is returned as it is.
        """
        if not stored.outdated:
            return stored
        try:
            return stored.renewed(await self.result(media), media.data_type)
        except SmartserveError as error:
            log.warning("analysis_not_renewed", media_id=media.id, reason=error.detail)
            return stored

    async def thumbhashes(self, images: Sequence[Media]) -> Mapping[int, str]:
        """Return the known ThumbHashes by media id; computes nothing."""
        found: dict[int, str] = {}
        for media in images:
            facts = media.known_facts
            if facts is not None and (known := self._results.get((media.id, facts.content_hash))):
                found[media.id] = known.thumbhash
        missing = [media.id for media in images if media.id not in found]
        try:
            return {**(await self._analyses.thumbhashes(missing) if missing else {}), **found}
        # A ThumbHash is a placeholder: the list is served without those that are missing.
        except DatabaseUnavailable:
            return found

    async def preload(self, media_ids: Sequence[int]) -> None:
        """Read the stored analyses and texts of many media by one query each, unless it fails."""
        with suppress(DatabaseUnavailable):
            if missing := [media_id for media_id in media_ids if media_id not in self._stored]:
                with self._reading(missing) as valid:
                    found = await self._analyses.find_many(missing)
                self._stored.update({media_id: found.get(media_id) for media_id in valid})
            if missing := [media_id for media_id in media_ids if media_id not in self._texts]:
                with self._reading(missing) as valid:
                    texts = await self._alt_texts.find_many(missing)
                self._texts.update({media_id: texts.get(media_id, {}) for media_id in valid})

    def forget(self, media_id: int) -> None:
        """Drop the cached analysis and texts of a medium, which may have changed."""
        # The others are kept: their keys contain the content hash, so a new source has a new key.
        self._stored.pop(media_id, None)
        self._texts.pop(media_id, None)
        for valid in self._reads:
            valid.discard(media_id)

    async def aclose(self) -> None:
        """Cancel the running computations."""
        await self._shared.aclose()

    async def _find_stored(self, media_id: int) -> tuple[Analysis | None, bool]:
        """Return the stored analysis, or None, and whether the database answered."""
        if media_id in self._stored:
            # Not by index: the entry may have expired since the check above.
            return self._stored.get(media_id), True
        try:
            with self._reading([media_id]) as valid:
                found = await self._analyses.find(media_id)
        except DatabaseUnavailable:
            # The response then lacks the texts, which is better than no response.
            return None, False
        if valid:
            self._stored[media_id] = found
        return found, True

    async def _find_texts(self, media_id: int) -> tuple[Mapping[str, str], bool]:
        """Return the texts of people by language, and whether the database answered."""
        known = self._texts.get(media_id)
        if known is not None:
            return known, True
        try:
            with self._reading([media_id]) as valid:
                found = await self._alt_texts.find(media_id)
        except DatabaseUnavailable:
            return {}, False
        if valid:
            self._texts[media_id] = found
        return found, True

    @contextmanager
    def _reading(self, media_ids: Sequence[int]) -> Iterator[set[int]]:
        """Yield the media whose values may be cached after a query.

        Those that change during it are removed, and read again by the next request.
        """
        valid = set(media_ids)
        self._reads.append(valid)
        try:
            yield valid
        finally:
            # By identity: two sets may be equal.
            self._reads = [one for one in self._reads if one is not valid]

    async def _compute(
        self, source: ReadableSource, *, analysed: bool
    ) -> tuple[ReadableSource, str, AnalysisResult | None]:
        """Return the source that was read, its placeholder and its analysis.

        The analysis is None if ``analysed`` is false.
        """
        try:
            return source, *await self._computed(source, analysed=analysed)
        except SourceChanged:
            # The file was replaced after its facts were stored. Read them again, but only once.
            source = source._replace(facts=await self._facts.learn(source.media))
        except SmartserveError as error:
            # A lesser file helps if the source is at fault, not if no worker is free.
            helps = source.original and source.media.fallbacks
            if isinstance(error, CapacityError) or not helps:
                raise
            source = _lesser(source.media)
        return source, *await self._computed(source, analysed=analysed)

    async def _computed(
        self, source: ReadableSource, *, analysed: bool
    ) -> tuple[str, AnalysisResult | None]:
        media, facts, _ = source
        key = media.id, facts.content_hash
        data_uri, result = self._placeholders.get(key), self._results.get(key)
        if data_uri is not None and (result is not None or not analysed):
            return data_uri, result if analysed else None
        shared = f"{media.id}/{facts.content_hash}/{analysed}"
        return await self._shared.result(
            shared, lambda: self._work(media, facts, analysed=analysed)
        )

    async def _work(
        self, media: Media, facts: MediaFacts, *, analysed: bool
    ) -> tuple[str, AnalysisResult | None]:
        key, result = (media.id, facts.content_hash), None
        # `SharedResults` runs this once per key, so the semaphore counts images and not requests.
        async with self._counted():
            data_uri = self._placeholders.get(key) or await self._data_uri(media, facts)
            self._placeholders[key] = data_uri
            if analysed:
                result = (await self._dispatcher.run(media, AnalyseJob(self._limits))).result
                self._results[key] = result
        return data_uri, result

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Wait for a place among the images in work; hold it for ``slow_s`` at most."""
        await self._semaphore.acquire()
        timer = asyncio.get_running_loop().call_later(self._slow_s, self._semaphore.release)
        try:
            yield
        finally:
            # Else the timer has released the place: after that the image is only limited by the
            # queue of the workers, as any render.
            if timer.when() > asyncio.get_running_loop().time():
                timer.cancel()
                self._semaphore.release()

    async def _data_uri(self, media: Media, facts: MediaFacts) -> str:
        text = ""
        # The largest that fits: noise needs more bytes than a smooth image.
        for side, quality in _TRIES:
            profile = EncoderProfile(Format.WEBP, (("Q", quality), ("alpha_q", 10), ("effort", 4)))
            geometry = plan_geometry(SizeSpec("tiny", side, side), facts)
            job = RenditionSet(self._limits, (RenderOutput(geometry, profile),))
            image = await self._dispatcher.encoded(media, job, facts=facts)
            encoded = base64.b64encode(image).decode()
            text = f"data:{TRAITS[Format.WEBP].media_type};base64,{encoded}"
            if len(text) <= MAX_DATA_URI:
                break
        return text


def _lesser(media: Media) -> ReadableSource:
    """Return the largest lesser file of an image that has one."""
    largest = max(media.fallbacks, key=lambda facts: facts.width * facts.height)
    return ReadableSource(media.with_source(largest), largest, original=False)


def _is_complete(stored: Analysis) -> bool:
    """Return whether a stored analysis has all pixel facts; those of other programs do not."""
    if stored.outdated or not isinstance(stored.columns["quality_score"], int):
        return False
    own, colours = stored.own, stored.columns["dominant_colors"]
    # Values of another type are those of another program, or damaged: the pixels are read again.
    hashes = all(isinstance(own.get(name), str) for name in ("thumbhash", "blurhash"))
    kind = own.get("kind")
    named = isinstance(kind, dict) and isinstance(kind.get("name"), str)
    return bool(hashes and named and colours) and all(isinstance(one, dict) for one in colours)


def _pixels_of_result(result: AnalysisResult, data_uri: str) -> PixelFacts:
    return PixelFacts(
        thumbhash=result.thumbhash,
        blurhash=result.blurhash,
        data_uri=data_uri,
        dominant_colours=[asdict(one) for one in result.dominant_colours],
        quality_score=round(result.quality.score),
        mood_keywords=result.mood_keywords,
        kind=result.kind.name,
        gamut=result.gamut,
    )


def _pixels_of_stored(stored: Analysis, data_uri: str) -> PixelFacts:
    columns, own = stored.columns, stored.own
    return PixelFacts(
        thumbhash=own["thumbhash"],
        blurhash=own["blurhash"],
        data_uri=data_uri,
        dominant_colours=columns["dominant_colors"],
        quality_score=columns["quality_score"],
        mood_keywords=columns["mood_keywords"] or (),
        kind=own["kind"]["name"],
        gamut=SourceGamut.parse(own.get("gamut")),
    )


def _with_columns(pixels: PixelFacts, columns: Mapping[str, Any]) -> PixelFacts:
    """Return pixel facts with the values that another program has stored for the same names.

    ``GET /api/media/analysis/{id}`` returns these values too.
    """
    score, colours = columns["quality_score"], columns["dominant_colors"]
    if isinstance(score, (int, float)) and 0 <= score <= _MAX_SCORE:
        pixels = replace(pixels, quality_score=round(score))
    if colours and all(isinstance(one, dict) for one in colours):
        pixels = replace(pixels, dominant_colours=colours)
    return pixels


def _analysis_facts(stored: Analysis | None) -> AnalysisFacts:
    if stored is None:
        return AnalysisFacts()
    columns = stored.columns
    return AnalysisFacts(
        alt=columns["subject_matter"] or None,
        style=columns["style_classification"],
        medium=columns["medium_detected"],
        mood_keywords=columns["mood_keywords"],
        details=stored.details(),
    )
