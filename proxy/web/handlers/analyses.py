"""The analysis of an image over HTTP, with the key of the media API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from proxy.domain.analysis import public
from proxy.domain.errors import MediaNotFound, MediaNotReady
from proxy.domain.media import MAX_MEDIA_ID
from proxy.storage.database import MediaRepository
from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.web.auth import KeyGuard
from proxy.web.json_response import json_route
from proxy.web.request_input import path_id


@dataclass(frozen=True, slots=True)
class AnalysisFields:
    """The documented members of an analysis; more may be present. Null: not determined."""

    style: str | None
    medium: str | None
    quality_score: Annotated[int, Field(ge=0, le=100)] | None
    mood_keywords: list[str] | None
    dominant_colors: list[dict[str, Any]] | None
    detected_objects: list[dict[str, Any]] | None
    confidence_score: float | None
    # Absent if another program wrote the row: its table has no columns for these two.
    brand_colors: list[str] | None = None
    site_context: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AnalysisResponse:
    """The stored analysis of an image."""

    success: Literal[True]
    analysis: AnalysisFields


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisHandler:
    """Handles ``GET /api/media/analysis/{media_id}``. The key is checked first."""

    guard: KeyGuard
    database: MediaRepository
    analyses: AnalysisRepository
    retry_after_s: int
    """Sent as Retry-After while the image is being processed."""

    @json_route("analysis")
    async def analysis(self, request: web.Request) -> Mapping[str, object]:
        """Return the analysis of an image. Null: not determined; a reason is given.

        Its members are those of section 12 of the requirements document, and more.
        """
        self.guard.check(request)
        media_id = path_id(request, "media_id")
        media = await self.database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        if media is None:
            raise MediaNotFound(f"there is no image with id {media_id}")
        stored = await self.analyses.find(media_id)
        if stored is not None:
            return {"success": True, "analysis": public(stored.columns, stored.own)}
        if media.in_progress:
            detail = "the image has not been analysed yet"
            raise MediaNotReady(detail, retry_after_s=self.retry_after_s)
        raise MediaNotFound("the image has not been analysed")
