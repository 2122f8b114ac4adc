"""Analyses a medium: pixels, vision providers and text recognition, merged into one result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from proxy.analysis.providers.embedding import EmbeddingModel
from proxy.analysis.providers.factory import PROVIDERS
from proxy.analysis.providers.http_provider import VisionProvider
from proxy.analysis.providers.tesseract import TextReader
from proxy.domain.analysis import (
    Analysis,
    ProviderGap,
    VisionResult,
    merge,
)
from proxy.domain.embedding import Embedding
from proxy.domain.errors import AnalysisError, BudgetSpent, ProviderUnavailable
from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.domain.variant import EncoderProfile, SizeSpec, plan_geometry
from proxy.domain.worker_protocol import AnalyseJob, Limits, RenderOutput, RenditionSet
from proxy.serving.job_dispatch import JobDispatcher

_SENT = EncoderProfile(Format.WEBP, (("Q", 85), ("effort", 2)))
_READ = EncoderProfile(Format.PNG, (("compression", 1),))
_READ_SIDE = 1600
"""Longer side in pixels for text recognition: 60 lines of text are then 20 pixels high each."""

log = structlog.get_logger(__name__)


class SentImage(NamedTuple):
    """An encoded image, and its width and height in pixels."""

    content: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyst:
    """Analyses media. Providers receive images of at most ``image_side`` pixels on a side."""

    dispatcher: JobDispatcher
    limits: Limits
    providers: Sequence[VisionProvider[Any]]
    reader: TextReader
    image_side: int
    find_brand: Callable[[int], Awaitable[Mapping[str, Any] | None]]
    """Returns colors and id of a user's logo."""
    embedding_model: EmbeddingModel | None = None

    async def analyse(
        self,
        media: Media,
        facts: MediaFacts,
        *,
        stored: Analysis | None = None,
    ) -> Analysis:
        """Return everything known about a medium. A failed provider is a reason, not an error.

        Of a ``stored`` analysis only the missing providers are requested, and its text is used if
        none can be recognised now.

        Raises:
            RenderError: the image cannot be decoded, or exceeds a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker is free in time.
            DatabaseUnavailable: the logo of a site's user cannot be read.
        """
        site = media.data_type == DataType.SITES
        brand = await self.find_brand(media.user_id) if site else None
        local = await self.dispatcher.run(media, AnalyseJob(self.limits))
        gamut = local.result.gamut
        if gamut.outside_srgb:
            shares = {"outside_srgb": gamut.outside_srgb, "outside_p3": gamut.outside_p3}
            log.info("wide_gamut_image", media_id=media.id, **shares)
        known = {} if stored is None else self._recall(stored)
        missing = [one for one in self.providers if one.name not in known]
        embedding, model = self._stored_embedding(stored), self.embedding_model
        embedder = None if embedding is not None else model
        page = b""
        image = SentImage(b"", 1, 1)
        # Encode only what is used: each image costs a job of a worker.
        if self.reader.missing is None:
            page = (await self._encoded(media, facts, _READ, _READ_SIDE)).content
        if missing or embedder is not None:
            image = await self._encoded(media, facts, _SENT, self.image_side)
        requests = asyncio.gather(*(_request(one, image, media.data_type) for one in missing))
        # Together: providers take seconds, Tesseract up to `vision.text.timeout_s`.
        text, answers, embedded = await asyncio.gather(
            self.reader.read(page), requests, _embed(embedder, image, media.data_type)
        )
        # Tesseract may have been removed, or may have failed this time only.
        if isinstance(text, ProviderGap) and stored and stored.columns["detected_text"] is not None:
            text = stored.columns["detected_text"]
        return merge(
            local.result,
            [*known.values(), *answers],
            text,
            data_type=media.data_type,
            brand=brand,
            embedding=embedding or embedded,
        )

    def _stored_embedding(self, stored: Analysis | None) -> Mapping[str, Any] | None:
        """Return what is published of the stored embedding, unless it is of another model."""
        found = None if stored is None else stored.own.get("embedding")
        if not isinstance(found, dict):
            return None
        model = self.embedding_model
        return found if model is None or found.get("model") == model.model else None

    def _recall(self, stored: Analysis) -> Mapping[str, VisionResult | ProviderGap]:
        """Return the stored answers by provider, without the providers that are still missing.

        A provider that rejected the image, or was added later, has a gap here: it is not requested.
        """
        reasons = stored.own.get("reasons") or {}
        # Unavailable before: these are requested now.
        awaited = stored.pending_providers
        configured = {one.name for one in self.providers}
        found: dict[str, VisionResult | ProviderGap] = {}
        for one in PROVIDERS:
            raw = stored.columns[one.column]
            # The answer of a provider stays after its key was removed.
            if one.name in awaited or (one.name not in configured and raw is None):
                continue
            if raw is None:
                reason = reasons.get(one.name, "No request was sent")
                found[one.name] = ProviderGap(one.name, reason)
                continue
            try:
                found[one.name] = one.recall(raw, stored.sent_size(one.name))
            except AnalysisError:
                # Another version of this program, or another program, has stored it.
                reason = "The stored answer cannot be read any more"
                found[one.name] = ProviderGap(one.name, reason)
        return found

    async def _encoded(
        self, media: Media, facts: MediaFacts, profile: EncoderProfile, side: int
    ) -> SentImage:
        """Return the first page: upright, without metadata, at most ``side`` pixels on a side."""
        geometry = plan_geometry(SizeSpec("analysis", side, side), facts)
        job = RenditionSet(self.limits, (RenderOutput(geometry, profile),))
        content = await self.dispatcher.encoded(media, job, facts=facts)
        return SentImage(content, geometry.width, geometry.height)


async def _embed(
    model: EmbeddingModel | None, image: SentImage, data_type: str
) -> Embedding | ProviderGap | None:
    if model is None:
        return None
    found = await _request(model, image, data_type)
    if isinstance(found, ProviderGap):
        return found
    return Embedding(model.model, found.embedding or ())


async def _request(
    provider: VisionProvider[Any], image: SentImage, data_type: str
) -> VisionResult | ProviderGap:
    try:
        media_type, size = TRAITS[_SENT.format].media_type, (image.width, image.height)
        return await provider.analyse(image.content, media_type, data_type, size)
    except AnalysisError as error:
        log.warning("provider_failed", provider=provider.name, reason=error.detail)
        # A transient gap is retried later; a spent budget is restored on the next day.
        transient = isinstance(error, (ProviderUnavailable, BudgetSpent))
        return ProviderGap(provider.name, error.detail, temporary=transient)
