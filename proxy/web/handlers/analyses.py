"""The analysis of a picture over HTTP, for those who have the key of the media API."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from proxy.domain.analysis import public
from proxy.domain.errors import MediaNotFound, MediaNotReady
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.outcome import Outcome
from proxy.storage.database import MediaRepository
from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.web.auth.api_key import KeyGuard
from proxy.web.id_params import parse_id
from proxy.web.json_response import guarded
from proxy.web.responses import BufferedResponse


class AnalysisHandler:
    """Answers ``GET /api/media/analysis/{media_id}``; nothing is told before the guard."""

    def __init__(
        self,
        *,
        guard: KeyGuard,
        database: MediaRepository,
        analyses: AnalysisRepository,
        retry_after_s: int,
    ) -> None:
        """The guard before it; ``retry_after_s`` is told while the picture is processed."""
        self._guard = guard
        self._database = database
        self._analyses = analyses
        self._retry_after_s = retry_after_s

    async def get(self, request: web.Request) -> BufferedResponse:
        """The analysis as section 12 of the requirements document has it, and more."""
        return await guarded(request, self._guard, Outcome("analysis"), self._find)

    async def _find(self, request: web.Request) -> Mapping[str, object]:
        media_id = parse_id("media_id", request.match_info["media_id"])
        media = await self._database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        if media is None:
            raise MediaNotFound(f"there is no picture with id {media_id}")
        stored = await self._analyses.find(media_id)
        if stored is not None:
            return {"success": True, "analysis": public(stored.columns, stored.own)}
        if media.in_progress:
            told = "the picture has not been analysed yet"
            raise MediaNotReady(told, retry_after_s=self._retry_after_s)
        raise MediaNotFound("the picture has not been analysed")
