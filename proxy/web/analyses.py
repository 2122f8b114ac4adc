"""The analysis of a picture over HTTP, for those who have the key of the media API."""

from __future__ import annotations

import re
from http import HTTPStatus

import orjson
from aiohttp import web

from proxy.analysis import public
from proxy.database import MediaDatabase
from proxy.database.analyses import Analyses
from proxy.errors import BadParameter, MediaNotFound, MediaNotReady, SmartserveError
from proxy.media import MAX_MEDIA_ID
from proxy.metrics import Outcome
from proxy.web.auth import Guard
from proxy.web.caching import NO_STORE
from proxy.web.headers import PRIVATE
from proxy.web.problems import problem
from proxy.web.responses import WholeResponse, whole

_ROUTE = "analysis"
_ID = re.compile(r"[0-9]{1,19}", re.ASCII)


class AnalysisHandler:
    """Answers ``GET /api/media/analysis/{media_id}``; nothing is told before the guard."""

    def __init__(
        self, *, guard: Guard, database: MediaDatabase, analyses: Analyses, retry_after_s: int
    ) -> None:
        """The guard before it; ``retry_after_s`` is told while the picture is processed."""
        self._guard = guard
        self._database = database
        self._analyses = analyses
        self._retry_after_s = retry_after_s

    async def get(self, request: web.Request) -> WholeResponse:
        """The analysis as section 12 of the requirements document has it, and more."""
        outcome = Outcome(_ROUTE)
        try:
            self._guard.check(request)
            found = await self._find(request.match_info["media_id"])
        except SmartserveError as error:
            return problem(error, outcome=outcome, security=PRIVATE)
        headers = [("Content-Type", "application/json"), ("Cache-Control", NO_STORE), *PRIVATE]
        body = orjson.dumps({"success": True, "analysis": found})
        return whole(HTTPStatus.OK, headers, body, outcome=outcome)

    async def _find(self, text: str) -> dict[str, object]:
        if not _ID.fullmatch(text):
            raise BadParameter("media_id", "1 to 19 digits")
        media_id = int(text)
        media = await self._database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        if media is None:
            raise MediaNotFound(f"there is no picture with id {text}")
        stored = await self._analyses.find(media_id)
        if stored is not None:
            return public(stored.columns, stored.own)
        if media.in_progress:
            told = "the picture has not been analysed yet"
            raise MediaNotReady(told, retry_after_s=self._retry_after_s)
        raise MediaNotFound("the picture has not been analysed")
