"""The admin routes: purging over HTTP, for those who have the key."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from proxy.domain.geometry import SizeSpec
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.outcome import Outcome
from proxy.domain.query import parse_boxes
from proxy.serving.purge import PurgeService
from proxy.web.auth.api_key import KeyGuard
from proxy.web.id_params import parse_id
from proxy.web.json_response import guarded
from proxy.web.responses import BufferedResponse

Counts = Mapping[str, int]


class AdminHandler:
    """Answers the admin routes; nothing is done, or told, before the guard has let one pass."""

    def __init__(
        self, *, guard: KeyGuard, purger: PurgeService, sizes: Mapping[str, SizeSpec]
    ) -> None:
        """The guard before it, and the use case behind it."""
        self._guard = guard
        self._purger = purger
        self._sizes = sizes

    async def purge_media(self, request: web.Request) -> BufferedResponse:
        """``DELETE /api/media/{id}/renditions``: how many were dropped."""
        return await guarded(request, self._guard, Outcome("purge_media"), self._purge_media)

    async def purge_user(self, request: web.Request) -> BufferedResponse:
        """``DELETE /api/users/{id}/renditions``: how many, of how many media."""
        return await guarded(request, self._guard, Outcome("purge_user"), self._purge_user)

    async def _purge_media(self, request: web.Request) -> Counts:
        media_id, boxes = parse_id("id", request.match_info["id"]), self._boxes(request)
        return {"dropped": await self._purger.medium(media_id, boxes)}

    async def _purge_user(self, request: web.Request) -> Counts:
        """However many media there are, a page of ids is all that is held of them."""
        user_id, boxes = parse_id("id", request.match_info["id"]), self._boxes(request)
        media = dropped = 0
        if user_id <= MAX_MEDIA_ID:
            async for purged in self._purger.user(user_id, boxes):
                media += 1
                dropped += purged.dropped
        return {"media": media, "dropped": dropped}

    def _boxes(self, request: web.Request) -> tuple[SizeSpec, ...]:
        return parse_boxes(request.rel_url.raw_query_string, sizes=self._sizes)
