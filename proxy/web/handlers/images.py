"""The picture routes: a request to its answer, step by step."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import structlog
from aiohttp import web

from proxy.domain.errors import (
    BadParameter,
    MediaNotFound,
    MediaNotReady,
    SmartserveError,
    SourceChanged,
)
from proxy.domain.geometry import SizeSpec
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.outcome import Outcome
from proxy.domain.query import VariantRequest, parse_request
from proxy.serving.delivery import Delivery
from proxy.serving.renderer import RenderTelemetry
from proxy.settings import LifetimeSettings
from proxy.storage.database import MediaRepository
from proxy.web.cache_headers import ImageRoute
from proxy.web.conditional import not_modified
from proxy.web.handlers.image_response import Answer, ImageAnswer, ImageResponder
from proxy.web.problem_details import problem
from proxy.web.server.load_shedding import LoadShedder, SheddingTicket
from proxy.web.server.response_cache import ResponseCache

_TELL_EVERY_S = 1.0

log = structlog.get_logger(__name__)

_CONDITIONS = ("If-None-Match", "If-Modified-Since")
_NAME = re.compile(r"([0-9]{1,19})(?:\.([A-Za-z0-9]{1,8}))?", re.ASCII)


def parse_name(name: str) -> tuple[int, str | None]:
    """Media id and extension of the last part of the path.

    Raises:
        BadParameter: it is no number of 1 to 19 digits.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise BadParameter("media_id", "1 to 19 digits, with an extension such as .webp or none")
    return int(match[1]), match[2]


def accept_header(request: web.BaseRequest) -> str:
    """The Accept header, several lines of it joined as RFC 9110, 5.3 says; empty where missing."""
    return ", ".join(request.headers.getall("Accept", ()))


def servable(media: Media | None, *, retry_after_s: int) -> Media:
    """The medium, where there is something to serve of it.

    Raises:
        MediaNotFound: there is no such row, or not one that is served.
        MediaNotReady: it is still being processed; to be asked again after ``retry_after_s``.
    """
    if media is None:
        raise MediaNotFound("there is no picture with this id")
    if media.servable:
        return media
    if media.in_progress:
        raise MediaNotReady("the picture is still being processed", retry_after_s=retry_after_s)
    raise MediaNotFound("there is no picture to serve under this id")


class ImageHandler:
    """Answers GET and HEAD of the picture routes."""

    def __init__(
        self,
        *,
        database: MediaRepository,
        delivery: Delivery,
        hot: ResponseCache,
        crowd: LoadShedder,
        telemetry: RenderTelemetry,
        sizes: Mapping[str, SizeSpec],
        lifetimes: LifetimeSettings,
    ) -> None:
        """The use cases and sections that it works with."""
        self._database = database
        self._delivery = delivery
        self._hot = hot
        self._crowd = crowd
        self._telemetry = telemetry
        self._sizes = sizes
        self._lifetimes = lifetimes
        self._told: dict[str, float] = {}

    async def serve(self, request: web.Request) -> Answer:
        """``/serve/{media_id}``: the long lifetime."""
        return await self._handle(request, ImageRoute.SERVE)

    async def api_images(self, request: web.Request) -> Answer:
        """``/api/images/{media_id}``: the same with one hour."""
        return await self._handle(request, ImageRoute.API_IMAGES)

    async def _handle(self, request: web.Request, route: ImageRoute) -> Answer:
        wanted: VariantRequest | None = None
        media_id: int | None = None
        try:
            media_id, extension = parse_name(request.match_info["name"])
            wanted = parse_request(
                request.rel_url.raw_query_string, sizes=self._sizes, extension=extension
            )
            return await self._answer(request, route, media_id, wanted)
        except SmartserveError as error:
            self._report(error, media_id)
            return problem(
                error,
                outcome=Outcome(
                    route, wanted.label if wanted is not None else "none", media_id=media_id
                ),
                not_found_s=self._lifetimes.not_found_s,
                negotiated=wanted is not None and wanted.negotiated,
            )

    def _report(self, error: SmartserveError, media_id: int | None) -> None:
        """Tell the operator the cause of what is no client's doing, each kind once a second."""
        kind = type(error).__name__
        if not error.reported or time.monotonic() - self._told.get(kind, -1.0) < _TELL_EVERY_S:
            return
        self._told[kind] = time.monotonic()
        cause = repr(error.__cause__) if error.__cause__ is not None else None
        log.warning(
            "answer_failed", error=kind, detail=error.detail, media_id=media_id, cause=cause
        )

    async def _answer(
        self, request: web.Request, route: ImageRoute, media_id: int, wanted: VariantRequest
    ) -> Answer:
        """Answer; where the picture turns out to have changed, once more by its new facts."""
        try:
            with self._crowd.look() as look:
                return await self._answer_once(request, route, media_id, wanted, look)
        except SourceChanged:
            with self._crowd.look() as look:
                return await self._answer_once(request, route, media_id, wanted, look)

    async def _answer_once(
        self,
        request: web.Request,
        route: ImageRoute,
        media_id: int,
        wanted: VariantRequest,
        look: SheddingTicket,
    ) -> Answer:
        held = await self._held(request, media_id)
        accept = accept_header(request)
        media = await self._media(media_id)
        if media.known_facts is None:
            # They are learned by the workers, which is waited for.
            look.end()
        plan = await self._delivery.plan(media, wanted, accept)
        exchange = ImageResponder(request, plan, route=route, lifetimes=self._lifetimes)
        if not_modified(request.headers, plan.variant.etag, plan.media.updated_at):
            return exchange.not_modified()
        if request.method == "HEAD":
            return await exchange.head(await self._delivery.find(plan))
        delivered = await self._delivery.fetch(plan, held=held, waits=look.end)
        answer = await exchange.answer(delivered)
        if delivered.rendition is not None and delivered.lasting:
            origin = self._hot.next_origin(delivered.variant)
            picture = ImageAnswer(delivered.variant, await delivered.format(), origin)
            self._hot.keep(request, accept, exchange.resolved(picture, delivered.rendition.length))
        return answer

    async def _held(self, request: web.Request, media_id: int) -> AbstractSet[str] | None:
        """While too many are looked at, what is stored of the picture; None before that.

        And None while a rendition of it is being made, which may be the one that is asked for.

        This is all that is spent on most of them: one look at the disk, before a row is asked for
        and a plan made. Who asks for what is stored is not turned away, nor is who may have it.

        Raises:
            CapacityError: nothing is stored of it.
        """
        conditional = any(name in request.headers for name in _CONDITIONS)
        if conditional or request.method != "GET" or not self._crowd.dense:
            return None
        held = await self._delivery.held(media_id)
        if held is not None and not held and (error := self._crowd.turn_away()) is not None:
            raise error
        return held

    async def _media(self, media_id: int) -> Media:
        media = await self._find(media_id) if media_id <= MAX_MEDIA_ID else None
        return servable(media, retry_after_s=self._lifetimes.not_ready_retry_s)

    async def _find(self, media_id: int) -> Media | None:
        began = time.perf_counter()
        try:
            return await self._database.find(media_id)
        finally:
            self._telemetry.stage("database", time.perf_counter() - began)
