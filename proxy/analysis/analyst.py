"""Analyses a medium: pixels, vision providers and text recognition, merged into one result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from proxy.analysis.providers import VisionProvider, google, openai
from proxy.analysis.providers.tesseract import TextReader
from proxy.domain.analysis import (
    PENDING_PROVIDERS,
    Analysis,
    ProviderGap,
    ReadText,
    VisionResult,
    merge,
)
from proxy.domain.errors import AnalysisError, BudgetSpent, ProviderUnavailable
from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import Media, MediaFacts
from proxy.domain.variant import EncoderProfile, SizeSpec, plan_geometry
from proxy.domain.worker_protocol import AnalyseJob, Limits, RenderOutput, RenditionSet
from proxy.serving.job_dispatch import JobDispatcher

_STORED: Mapping[str, tuple[str, Callable[[Any], VisionResult]]] = {
    "google": ("raw_google_response", google.recall),
    "openai": ("raw_gpt4_response", openai.recall),
}
"""By provider: the column of its stored answer, and the function that reads it."""

_SENT = EncoderProfile(Format.WEBP, (("Q", 85), ("effort", 2)))
_READ = EncoderProfile(Format.PNG, (("compression", 1),))
_READ_SIDE = 1600
"""Longer side in pixels for text recognition: 60 lines of text are then 20 pixels high each."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EarlierResults:
    """Results of a stored analysis."""

    answers: Mapping[str, VisionResult | ProviderGap]
    """By provider."""
    text: str | None
    """Recognised text, or None if there was no text recognition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyst:
    """Analyses media. Providers receive images of at most ``image_side`` pixels on a side."""

    dispatcher: JobDispatcher
    limits: Limits
    providers: Sequence[VisionProvider]
    reader: TextReader
    image_side: int

    async def analyse(
        self,
        media: Media,
        facts: MediaFacts,
        *,
        site_context: Mapping[str, Any] | None = None,
        earlier: EarlierResults | None = None,
    ) -> Analysis:
        """Return everything known about a medium. A failed provider is a reason, not an error.

        Providers with an ``earlier`` answer are not requested again, and its text is used if none
        can be recognised now.

        Raises:
            RenderError: the image cannot be decoded, or exceeds a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker is free in time.
        """
        local = await self.dispatcher.run(media, AnalyseJob(self.limits))
        known = {} if earlier is None else earlier.answers
        missing = [one for one in self.providers if one.name not in known]
        page = image = b""
        # Encode only what is used: each image costs a job of a worker.
        if self.reader.missing is None:
            page = await self._encoded(media, facts, _READ, _READ_SIDE)
        if missing:
            image = await self._encoded(media, facts, _SENT, self.image_side)
        requests = asyncio.gather(*(_request(one, image, media.data_type) for one in missing))
        # Together: providers take seconds, Tesseract up to `vision.text.timeout_s`.
        text, answers = await asyncio.gather(self.reader.read(page), requests)
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
        """Return the results of a stored analysis, without the providers that it awaits.

        A provider that rejected the image, or was added later, has a gap here: it is not requested.
        """
        reasons, awaited = own.get("reasons") or {}, own.get(PENDING_PROVIDERS) or ()
        configured = {one.name for one in self.providers}
        answers = {
            name: _recalled(name, columns[column], reasons)
            for name, (column, _) in _STORED.items()
            if name not in awaited and (name in configured or columns[column] is not None)
        }
        return EarlierResults(answers, columns["detected_text"])

    async def _encoded(
        self, media: Media, facts: MediaFacts, profile: EncoderProfile, side: int
    ) -> bytes:
        """Return the first page: upright, without metadata, at most ``side`` pixels on a side."""
        geometry = plan_geometry(SizeSpec("analysis", side, side), facts)
        job = RenditionSet(self.limits, (RenderOutput(geometry, profile),))
        return await self.dispatcher.encoded(media, job, byte_size=facts.byte_size)


async def _request(
    provider: VisionProvider, image: bytes, data_type: str
) -> VisionResult | ProviderGap:
    try:
        return await provider.analyse(image, TRAITS[_SENT.format].media_type, data_type)
    except AnalysisError as error:
        log.warning("provider_failed", provider=provider.name, reason=error.detail)
        transient = isinstance(error, (ProviderUnavailable, BudgetSpent))
        return ProviderGap(provider.name, error.detail, temporary=transient)


def _recalled(name: str, raw: Any, reasons: Mapping[str, str]) -> VisionResult | ProviderGap:
    if raw is None:
        return ProviderGap(name, reasons.get(name, "No request was sent"))
    try:
        return _STORED[name][1](raw)
    except AnalysisError:
        return ProviderGap(name, "The stored answer cannot be read any more")
