"""Analysing: ask pixels, providers and the reader of text about a medium, and put it together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from proxy.analysis.providers import VisionContext, VisionProvider, google, openai
from proxy.analysis.providers.tesseract import TextReader
from proxy.domain.analysis import AWAITED, Analysis, merge
from proxy.domain.errors import AnalysisError, BudgetSpent, ProviderUnavailable
from proxy.domain.formats import TRAITS, EncoderProfile, Format
from proxy.domain.geometry import SizeSpec, plan_geometry
from proxy.domain.image_analysis import ProviderGap, ReadText, VisionResult
from proxy.domain.media import Media, MediaFacts
from proxy.domain.worker_protocol import AnalyseJob, Limits, RenderOutput, RenditionSet
from proxy.serving.job_dispatch import JobDispatcher

_KEPT: Mapping[str, tuple[str, Callable[[Any], VisionResult]]] = {
    "google": ("raw_google_response", google.recall),
    "openai": ("raw_gpt4_response", openai.recall),
}
"""Columns of what providers said, and how each is read: also of those that are set up no more."""

log = structlog.get_logger(__name__)

_SENT = EncoderProfile(Format.WEBP, (("Q", 85), ("effort", 2)))
_READ = EncoderProfile(Format.PNG, (("compression", 1),))
_READ_SIDE = 1600
"""Pixels on the longer side in which text is read: letters of 20 pixels on a page of 60 lines."""


@dataclass(frozen=True, slots=True)
class EarlierResults:
    """What others have said of a picture before."""

    answers: Mapping[str, VisionResult | ProviderGap]
    """By provider."""
    text: str | None
    """Read in it; None where nobody could."""


class Analyst:
    """Analyses media: their pixels in a worker, then whoever else is there, all at once."""

    def __init__(
        self,
        *,
        workshop: JobDispatcher,
        limits: Limits,
        providers: Sequence[VisionProvider],
        reader: TextReader,
        picture_side: int,
    ) -> None:
        """The rooms it works with; it owns none. Providers get ``picture_side`` pixels at most."""
        self._workshop = workshop
        self._limits = limits
        self._providers = providers
        self._reader = reader
        self._picture_side = picture_side

    async def analyse(
        self,
        media: Media,
        facts: MediaFacts,
        *,
        site_context: Mapping[str, Any] | None = None,
        earlier: EarlierResults | None = None,
    ) -> Analysis:
        """All that is known of a medium; a provider that fails is a reason, not an error.

        ``earlier`` is what others have said before: those providers are not asked, and its text
        stands where none can be read now.

        Raises:
            RenderError: the picture cannot be decoded, or is past a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker is free in time.
        """
        local = await self._workshop.run(media, AnalyseJob(self._limits))
        page = await self._page(media, facts)
        known = {} if earlier is None else earlier.answers
        asked = [one for one in self._providers if one.name not in known]
        picture = await self._picture(media, facts) if asked else b""
        context = VisionContext(media.data_type)
        asking = asyncio.gather(*(_ask(one, picture, context) for one in asked))
        text, answers = await asyncio.gather(self._reader.read(page), asking)
        if isinstance(text, ProviderGap) and earlier is not None and earlier.text is not None:
            text = ReadText(earlier.text)
        return merge(
            local.result,
            [*known.values(), *answers],
            text,
            data_type=media.data_type,
            site_context=site_context,
        )

    def recall(self, columns: Mapping[str, Any], own: Mapping[str, Any]) -> EarlierResults:
        """What was said, by a stored analysis; those that it awaits are not among them.

        Who had refused, or is new since then, has said why, or nothing: it is not asked.
        """
        reasons, awaited = own.get("reasons") or {}, own.get(AWAITED) or ()
        configured = {one.name for one in self._providers}
        answers = {
            name: _recalled(name, columns[column], reasons)
            for name, (column, _) in _KEPT.items()
            if name not in awaited and (name in configured or columns[column] is not None)
        }
        return EarlierResults(answers, columns["detected_text"])

    async def _page(self, media: Media, facts: MediaFacts) -> bytes:
        """What is read; nothing where nobody reads."""
        if self._reader.missing is not None:
            return b""
        return await self._render(media, facts, _READ, _READ_SIDE)

    async def _picture(self, media: Media, facts: MediaFacts) -> bytes:
        """What is sent."""
        return await self._render(media, facts, _SENT, self._picture_side)

    async def _render(
        self, media: Media, facts: MediaFacts, profile: EncoderProfile, side: int
    ) -> bytes:
        """An encoding of the first page, upright, without metadata, never enlarged."""
        geometry = plan_geometry(SizeSpec("analysis", side, side), facts)
        job = RenditionSet(self._limits, (RenderOutput(geometry, profile),))
        return await self._workshop.encoded(media, job, byte_size=facts.byte_size)


async def _ask(
    provider: VisionProvider, picture: bytes, context: VisionContext
) -> VisionResult | ProviderGap:
    try:
        return await provider.analyse(picture, TRAITS[_SENT.format].media_type, context)
    except AnalysisError as error:
        log.warning("provider_failed", provider=provider.name, reason=error.detail)
        passing = isinstance(error, (ProviderUnavailable, BudgetSpent))
        return ProviderGap(provider.name, error.detail, passing=passing)


def _recalled(name: str, raw: Any, reasons: Mapping[str, str]) -> VisionResult | ProviderGap:
    if raw is None:
        return ProviderGap(name, reasons.get(name, "it was not asked"))
    try:
        return _KEPT[name][1](raw)
    except AnalysisError:
        return ProviderGap(name, "what it said is not readable any more")
