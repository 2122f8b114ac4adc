"""The routes that tell of pictures: ``/info/{id}``, ``/info`` of many, the gallery's listing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from proxy.domain.errors import BadParameter, SmartserveError
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.outcome import Outcome
from proxy.domain.query import last_values
from proxy.domain.render_plan import RenderPlanner
from proxy.domain.urls import version_of
from proxy.serving.delivery import Delivery
from proxy.serving.image_info import ImageInfoService
from proxy.settings import LifetimeSettings
from proxy.storage.database import MediaRepository
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.web.cache_headers import NO_STORE
from proxy.web.conditional import matches
from proxy.web.handlers.images import servable
from proxy.web.handlers.info_json import describe_picture
from proxy.web.headers import PRIVATE, SECURITY, Header
from proxy.web.id_params import DIGITS, ID, parse_id, whole_number
from proxy.web.problem_details import problem
from proxy.web.request_body import read_json, require_json
from proxy.web.responses import BufferedResponse, bodiless, whole

MAX_IDS = 100
"""By GET and by POST: first looks at so many took 14 s on two busy cores, later ones 0.06 s."""
MAX_BODY_BYTES = 16 * 1024
"""`MAX_IDS` of the longest ids, each on a line of its own, take a fifth of this."""
_DEFAULT_LIMIT, _MAX_LIMIT = 40, 100
_LIMIT = re.compile(r"[1-9][0-9]?|100", re.ASCII)
_UNDER_WAY = 4
"""Pictures of a list that are described at once; a worker is asked for fewer by the describer."""

_MANY = Outcome("info_many")
_JSON = "application/json"
_PREFLIGHT: Sequence[Header] = (
    ("Cache-Control", NO_STORE),
    ("Allow", "GET,HEAD,OPTIONS,POST"),
    ("Access-Control-Allow-Methods", "GET, HEAD, POST"),
    ("Access-Control-Allow-Headers", "Content-Type"),
    ("Access-Control-Max-Age", "86400"),
    *SECURITY,
)

Json = dict[str, Any]


class InfoHandler:
    """Answers GET and HEAD of what is known of pictures."""

    def __init__(
        self,
        *,
        database: MediaRepository,
        listing: SqlMediaRepository,
        delivery: Delivery,
        describer: ImageInfoService,
        planner: RenderPlanner,
        lifetimes: LifetimeSettings,
        stall_s: float,
    ) -> None:
        """The use cases that it works with; ``stall_s`` is for a body to come in whole."""
        self._database = database
        self._listing = listing
        self._delivery = delivery
        self._describer = describer
        self._planner = planner
        self._lifetimes = lifetimes
        self._stall_s = stall_s

    async def one(self, request: web.Request) -> BufferedResponse:
        """``/info/{id}``: what a page wants to know of a picture before it is there."""
        outcome = Outcome("info")
        try:
            media_id = parse_id("media_id", request.match_info["id"])
            outcome = outcome._replace(media_id=media_id)
            media = await self._media(media_id)
            told = await self._describe(media)
        except SmartserveError as error:
            return problem(error, outcome=outcome, not_found_s=self._lifetimes.not_found_s)
        return answer_json(request, told, lifetime=self._lifetime(media), outcome=outcome)

    async def many(self, request: web.Request) -> BufferedResponse:
        """``/info?ids=1,2,3``: the same of many; what cannot be told is listed with the reason."""
        try:
            ids = _parse_ids(last_values(request.rel_url.raw_query_string).get("ids", ""))
        except SmartserveError as error:
            return problem(error, outcome=_MANY)
        told = await self._tell_all(ids)
        lifetime = self._list_lifetime(told["missing"])
        return answer_json(request, told, lifetime=lifetime, outcome=_MANY)

    async def posted(self, request: web.Request) -> BufferedResponse:
        """``POST /info``: as `many`, with the ids in the body; kept by nobody."""
        try:
            require_json(request)
            body = await read_json(request, max_bytes=MAX_BODY_BYTES, stall_s=self._stall_s)
            ids = _listed_ids(body.get("ids"))
        except SmartserveError as error:
            return problem(error, outcome=_MANY)
        told = orjson.dumps(await self._tell_all(ids))
        headers = [("Content-Type", _JSON), ("Cache-Control", NO_STORE), *SECURITY]
        return whole(HTTPStatus.OK, headers, told, outcome=_MANY)

    async def preflight(self, _request: web.Request) -> BufferedResponse:
        """``OPTIONS /info``: pages of other origins may send JSON there (Fetch, CORS-preflight)."""
        return bodiless(HTTPStatus.NO_CONTENT, _PREFLIGHT, outcome=Outcome("preflight"))

    async def gallery(self, request: web.Request) -> BufferedResponse:
        """``/api/gallery``: the newest pictures, with what is known of them already."""
        outcome = Outcome("gallery")
        try:
            before, limit = _parse_page(last_values(request.rel_url.raw_query_string))
            pictures = await self._listing.newest(before=before, limit=limit)
            hashes = await self._describer.thumbhashes(pictures)
        except SmartserveError as error:
            return problem(error, outcome=outcome, security=PRIVATE)
        told = {
            "pictures": [_listed(media, hashes.get(media.id)) for media in pictures],
            "next": pictures[-1].id if len(pictures) == limit else None,
        }
        return answer_json(request, told, lifetime="no-cache", outcome=outcome, security=PRIVATE)

    async def _tell_all(self, ids: Sequence[int]) -> Json:
        """What is known of each picture, in their order, and what cannot be told."""
        room = asyncio.Semaphore(_UNDER_WAY)
        found = await asyncio.gather(*(self._tell(media_id, room) for media_id in ids))
        return {
            "pictures": [one for one in found if "status" not in one],
            "missing": [one for one in found if "status" in one],
        }

    async def _tell(self, media_id: int, room: asyncio.Semaphore) -> Json:
        """The description, or an object with the ``status`` that the id alone would get."""
        async with room:
            try:
                return await self._describe(await self._media(media_id))
            except SmartserveError as error:
                return {"id": media_id, "status": error.status, "detail": error.detail}

    async def _media(self, media_id: int) -> Media:
        media = await self._database.find(media_id) if media_id <= MAX_MEDIA_ID else None
        return servable(media, retry_after_s=self._lifetimes.not_ready_retry_s)

    async def _describe(self, media: Media) -> Json:
        portrait = await self._describer.describe(media)
        held = await self._delivery.held(media.id) or ()
        planner, facts = self._planner, portrait.facts
        return describe_picture(
            media.id,
            portrait,
            sizes=planner.rules.sizes,
            formats=planner.formats(facts),
            ready=planner.ready(media, facts, frozenset(held)),
        )

    def _lifetime(self, media: Media) -> str:
        if not media.settled:
            return f"public, max-age={self._lifetimes.unsettled_s}"
        return self._long()

    def _list_lifetime(self, missing: Sequence[Json]) -> str:
        if any(one["status"] != HTTPStatus.NOT_FOUND for one in missing):
            return NO_STORE
        return f"public, max-age={self._lifetimes.not_found_s}" if missing else self._long()

    def _long(self) -> str:
        stale = self._lifetimes.api_stale_s
        return f"public, max-age={self._lifetimes.api_s}, stale-while-revalidate={stale}"


def answer_json(
    request: web.Request,
    told: Mapping[str, Any],
    *,
    lifetime: str,
    outcome: Outcome,
    security: Sequence[Header] = SECURITY,
) -> BufferedResponse:
    """JSON with a strong ETag of its bytes, or a 304 to who has them."""
    body = orjson.dumps(told)
    etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    headers = [("Cache-Control", lifetime), ("ETag", etag), *security]
    if matches(", ".join(request.headers.getall("If-None-Match", ())), etag):
        return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=outcome)
    headers = [("Content-Type", _JSON), *headers]
    return whole(HTTPStatus.OK, headers, body, outcome=outcome)


def _listed(media: Media, thumbhash: str | None) -> Json:
    facts = media.known_facts
    return {
        "id": media.id,
        "name": media.original_name,
        "settled": media.settled,
        "version": None if facts is None else version_of(facts),
        "width": None if facts is None else facts.width,
        "height": None if facts is None else facts.height,
        "thumbhash": thumbhash,
    }


def _parse_ids(text: str) -> list[int]:
    """Each id once, in the order in which they were named."""
    parts = list(dict.fromkeys(text.split(",")))
    if len(parts) > MAX_IDS or not all(map(ID.fullmatch, parts)):
        raise BadParameter("ids", f"1 to {MAX_IDS} media ids of 1 to 19 digits, with commas")
    return list(dict.fromkeys(map(int, parts)))


def _listed_ids(value: object) -> list[int]:
    """The ``ids`` of a body, each once, in the order in which they were named."""
    ids = [whole_number(one) for one in value] if isinstance(value, list) else []
    valid = [one for one in ids if one is not None and 0 <= one < 10**DIGITS]
    if not 0 < len(ids) == len(valid) <= MAX_IDS:
        allowed = f"a list of 1 to {MAX_IDS} media ids, whole numbers of 1 to {DIGITS} digits"
        raise BadParameter("ids", allowed)
    return list(dict.fromkeys(valid))


def _parse_page(values: Mapping[str, str]) -> tuple[int, int]:
    before = parse_id("before", values.get("before") or str(MAX_MEDIA_ID))
    limit = values.get("limit") or str(_DEFAULT_LIMIT)
    if not _LIMIT.fullmatch(limit):
        raise BadParameter("limit", f"a whole number from 1 to {_MAX_LIMIT}")
    return min(before, MAX_MEDIA_ID), int(limit)
