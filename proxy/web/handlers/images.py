"""The image routes: resolve the request, have the rendition fetched, build the response."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator
from collections.abc import Set as AbstractSet
from http import HTTPStatus

import structlog
from aiohttp import HttpVersion11, web

from proxy.domain.errors import (
    BadParameter,
    MediaNotFound,
    MediaNotReady,
    SmartserveError,
    SourceChanged,
)
from proxy.domain.formats import Format
from proxy.domain.media import MAX_MEDIA_ID, Media, Visibility
from proxy.domain.render_plan import RenderPlan
from proxy.domain.request import Origin, Outcome, VariantRequest
from proxy.domain.signature import OPEN_ACCESS, MediaAccess, Scope
from proxy.domain.variant import Variant
from proxy.serving.delivery import Delivery, DeliveryResult
from proxy.settings import LifetimeSettings
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.renditions.rendition import Rendition
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import STATE, span
from proxy.web.conditional import (
    ByteRange,
    check_preconditions,
    names,
    not_modified,
    requested_range,
)
from proxy.web.handlers.forwarding import ForwardedImages
from proxy.web.headers import (
    NO_STORE,
    Header,
    ImageRoute,
    cache_status,
    ignored_header,
    image_headers,
    last_modified,
    sent_date,
    validators,
)
from proxy.web.json_response import problem
from proxy.web.request_input import ID_PATTERN, wants_less
from proxy.web.responses import (
    Answer,
    BufferedResponse,
    StreamedResponse,
    bodiless,
    whole,
)
from proxy.web.server.load_shedding import LoadShedder
from proxy.web.server.response_cache import (
    ImageTarget,
    ParseQuery,
    ResolvedResponse,
    ResponseCache,
    image_outcome,
    resolve_response,
)

_LOG_EVERY_S = 1.0
_CONDITIONS = ("If-None-Match", "If-Modified-Since")
_PRECONDITIONS = ("If-Match", "If-Unmodified-Since")
_NAME = re.compile(rf"({ID_PATTERN})(?:\.([A-Za-z0-9]{{1,8}}))?", re.ASCII)

log = structlog.get_logger(__name__)


def parse_name(name: str) -> tuple[int, str | None]:
    """Return the media id and the extension of the last part of the path.

    Raises:
        BadParameter: the id is not a number of 1 to 19 digits without leading zeros.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        allowed = "1 to 19 digits without leading zeros, with an extension such as .webp or none"
        raise BadParameter("media_id", allowed)
    return int(match[1]), match[2]


def accept_header(request: web.BaseRequest) -> str:
    """Return the Accept header; several lines are joined (RFC 9110, 5.3)."""
    return ", ".join(request.headers.getall("Accept", ()))


def servable(media: Media | None, *, retry_after_s: int) -> Media:
    """Return the media row if its image can be served.

    Raises:
        MediaNotFound: there is no row, or it has no file to serve.
        MediaNotReady: it is still being processed; the client may retry after ``retry_after_s``.
    """
    if media is None:
        raise MediaNotFound("there is no image with this id")
    if media.servable:
        return media
    if media.in_progress:
        raise MediaNotReady("the image is still being processed", retry_after_s=retry_after_s)
    raise MediaNotFound("there is no image to serve under this id")


class ImageHandler:
    """Answers GET and HEAD of the image routes."""

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        *,
        database: CachedMediaRepository,
        delivery: Delivery,
        response_cache: ResponseCache,
        load_shedder: LoadShedder,
        telemetry: Metrics,
        parse_query: ParseQuery,
        lifetimes: LifetimeSettings,
        access: MediaAccess = OPEN_ACCESS,
        forwarded: ForwardedImages | None = None,
    ) -> None:
        """``forwarded`` answers for the media server, if there is one."""
        self._database = database
        self._delivery = delivery
        self._response_cache = response_cache
        self._load_shedder = load_shedder
        self._telemetry = telemetry
        self._parse_query = parse_query
        self._lifetimes = lifetimes
        self._access = access
        self._forwarded = forwarded
        # The handler and the cache must read a request in the same way.
        self._client_hints = response_cache.client_hints
        self._logged_at: dict[str, float] = {}

    async def serve(self, request: web.Request) -> Answer:
        """Return an image in the best format that Accept names; finals have the long lifetime."""
        return await self._handle(request, ImageRoute.SERVE)

    async def api_images(self, request: web.Request) -> Answer:
        """Return an image in the best format that Accept names; finals are fresh for an hour."""
        return await self._handle(request, ImageRoute.API_IMAGES)

    async def _handle(self, request: web.Request, route: ImageRoute) -> Answer:
        wanted: VariantRequest | None = None
        media_id: int | None = None
        try:
            media_id, extension = parse_name(request.match_info["name"])
            lean = wants_less(request.headers) if self._client_hints else None
            query = request.rel_url.raw_query_string
            wanted = self._parse_query(query, extension=extension, lean=lean)
            target, database = ImageTarget(route, media_id, wanted), self._database
            changes = database.changes
            answer = await self._answer(request, target)
            if changes == database.changes or not database.changed_since(media_id, changes):
                return answer
            # Changed or purged meanwhile: it may be private now, or have another crop. A CDN has
            # been purged already, and would keep the old image for as long as the new one.
            if isinstance(answer, StreamedResponse):
                answer.discard()
            return await self._answer(request, target, uncached=True)
        except SmartserveError as error:
            self._log(error, media_id)
            label = "none" if wanted is None else wanted.box.name
            return problem(
                error,
                outcome=Outcome(route, label, media_id=media_id),
                not_found_s=self._lifetimes.not_found_s,
                negotiated=wanted is not None and wanted.negotiated,
            )

    async def _answer(
        self, request: web.Request, target: ImageTarget, *, uncached: bool = False
    ) -> Answer:
        """Return the response of this server or the media server.

        ``uncached``: no cache may keep it, because the image changes while it is made.
        """
        if self._forwarded is not None:
            answer = await self._forwarded.answer(
                request, target.route, target.media_id, target.request, uncached=uncached
            )
            if answer is not None:
                return answer
        try:
            return await self._respond(request, target, uncached=uncached)
        except SourceChanged:
            # The new facts were saved before this was raised, so the second plan uses them.
            return await self._respond(request, target, uncached=uncached)

    async def _respond(
        self, request: web.Request, target: ImageTarget, *, uncached: bool
    ) -> Answer:
        """Resolve, find, render and respond."""
        ticket = self._load_shedder.ticket()
        try:
            conditional = any(name in request.headers for name in _CONDITIONS)
            stored = None
            # A 304 or the answer to HEAD seldom needs a worker, and gets none under overload.
            if ticket.overloaded and request.method == "GET" and not conditional:
                stored = await self._shed(target.media_id)
            target, media = await self._permitted(target, shed=stored is not None)
            accept = accept_header(request)
            plan = self._response_cache.not_stored(request, media)
            absent = plan is not None
            if plan is None:
                # A worker reads facts and faces, and waiting for one takes no time of the loop.
                plan = await self._delivery.plan(
                    media, target.request, accept, on_wait=ticket.release
                )
            responder = ImageResponder(
                request,
                plan,
                target.route,
                self._lifetimes,
                conditional=conditional,
                uncached=uncached,
            )
            unchanged = await self._without_render(responder) if conditional else None
            if unchanged is not None:
                return unchanged
            result = None
            if request.method == "HEAD":
                result = None if absent else await self._delivery.find(plan)
                if result is None and await self._delivery.can_render(plan):
                    return responder.not_rendered()
            if result is None:
                result = await self._delivery.fetch(
                    plan, stored=stored, absent=absent, on_wait=ticket.wait_for_render
                )
            answer = await responder.respond(result)
            # Kept if the next request will probably get the same bytes, and in one piece.
            in_store = result.rendition is not None and result.body is not None
            kept = result.origin is not Origin.FALLBACK and not plan.provisional
            if in_store and kept:
                origin = self._response_cache.next_origin(result.variant)
                resolved = responder.resolved(result, origin)
                self._response_cache.keep(request.raw_path, accept, target, resolved)
            return answer
        finally:
            # A request that has waited for a render is released already.
            if ticket.counted:
                ticket.release()

    async def _without_render(self, responder: ImageResponder) -> BufferedResponse | None:
        """Return the 304 to a client that names the ETag of a rendition with one stage, or None.

        That ETag is known in advance, so an evicted rendition is not rendered for a 304. In all
        other cases the result decides: it may be a draft or another size, and a 304 must not give
        that the ETag and the lifetime of the final.
        """
        plan = responder.plan
        if plan.draft is not None or plan.is_fallback or not responder.client_names(plan.variant):
            return None
        if not await self._delivery.can_render(plan):
            return None
        responder.check(plan.variant, Origin.NONE)
        return responder.not_modified(plan.variant, Origin.NONE)

    async def _shed(self, media_id: int) -> AbstractSet[str] | None:
        """Under overload, return what is stored of the image, after one directory look-up.

        Return None while a rendition of the image is being rendered, which may be the one
        requested. The look-up costs much less than the row and the plan, so requests that cannot
        be served from storage are rejected here.

        Raises:
            Overloaded: nothing is stored of the image.
        """
        stored = await self._delivery.stored(media_id)
        if stored is not None and not stored:
            self._load_shedder.check()
        return stored

    async def _permitted(self, target: ImageTarget, *, shed: bool) -> tuple[ImageTarget, Media]:
        """Return the target, with a signature only if that has opened a private image, and the row.

        ``shed`` is whether a request for an unknown id would be rejected.

        Raises:
            MediaNotFound, MediaNotReady: there is no such image for this client.
        """
        media, visibility = await self._find_media(target.media_id), None
        if media is not None:
            # Not `MediaAccess.is_private`: that is a call into another module for each request.
            visibility = media.choices.visibility or self._access.defaults.get(media.data_type)
        if visibility is Visibility.PRIVATE:
            signature = target.request.signature
            if not self._access.admit(Scope.RENDITION, target.media_id, signature):
                # Before all else that the row says: the response must be that to an unknown id,
                # of which nothing is stored, so that under overload it is a 503.
                if shed:
                    self._load_shedder.check()
                media = None
        elif target.request.signature is not None:
            if media is None:
                # An unknown id takes as long as a private image.
                self._access.opens(Scope.RENDITION, target.media_id, target.request.signature)
            target = target.unsigned()
        return target, servable(media, retry_after_s=self._lifetimes.not_ready_retry_s)

    async def _find_media(self, media_id: int) -> Media | None:
        began = time.perf_counter()
        try:
            return await self._look_up(media_id) if media_id <= MAX_MEDIA_ID else None
        finally:
            self._telemetry.stage("database", time.perf_counter() - began)

    async def _look_up(self, media_id: int) -> Media | None:
        if STATE.tracer is None:
            return await self._database.find(media_id)
        with span("database") as part:
            media = await self._database.find(media_id)
            part.set_attribute("smartserve.found", media is not None)
            return media

    def _log(self, error: SmartserveError, media_id: int | None) -> None:
        """Log an error that is the server's fault, each kind once a second."""
        kind = type(error).__name__
        if not error.reported or time.monotonic() - self._logged_at.get(kind, -1.0) < _LOG_EVERY_S:
            return
        self._logged_at[kind] = time.monotonic()
        log.warning(
            "answer_failed",
            error=kind,
            detail=error.detail,
            media_id=media_id,
            cause=error.reason or None,
        )


class ImageResponder:
    """Builds the responses to one request. Its clock for Server-Timing starts when it is made."""

    def __init__(
        self,
        request: web.Request,
        plan: RenderPlan,
        route: ImageRoute,
        lifetimes: LifetimeSettings,
        *,
        conditional: bool,
        uncached: bool = False,
    ) -> None:
        """``conditional`` is whether the request has a condition for a 304.

        The responses of an ``uncached`` responder are kept by no cache.
        """
        self.plan = plan
        self._request = request
        self._route = route
        self._lifetimes = lifetimes
        self._conditional = conditional
        self._uncached = uncached
        # Not a part of the plan: equal plans answer requests with other such parameters.
        self._ignored = ignored_header(request.rel_url.raw_query_string)
        self._began = time.perf_counter()

    def client_names(self, variant: Variant) -> bool:
        """Return whether If-None-Match lists the ETag of a variant; ``*`` lists none."""
        return names(", ".join(self._request.headers.getall("If-None-Match", ())), variant.etag)

    def check(self, variant: Variant, origin: Origin) -> None:
        """Check If-Match and If-Unmodified-Since for a response.

        Raises:
            PreconditionFailed: one of them excludes it.
        """
        headers = self._request.headers
        if any(name in headers for name in _PRECONDITIONS):
            check_preconditions(headers, variant.etag, sent_date(self.plan, variant, origin))

    def client_has(self, variant: Variant, origin: Origin) -> bool:
        """Return whether the conditions of the request ask for a 304 instead of this response."""
        date = last_modified(self.plan, variant, origin)
        return not_modified(self._request.headers, variant.etag, date)

    def not_modified(self, variant: Variant, origin: Origin) -> BufferedResponse:
        """Return the 304 in place of the 200 with this variant and origin."""
        headers = self._validators(variant, origin)
        outcome = self._outcome(variant, self.plan.variant.format, Origin.NOT_MODIFIED)
        return whole(
            HTTPStatus.NOT_MODIFIED,
            [*headers, self._cache_status(variant, Origin.NOT_MODIFIED), *self._ignored],
            b"",
            outcome=outcome,
        )

    def not_rendered(self) -> BufferedResponse:
        """Return the response to HEAD if nothing is stored; nothing is rendered for it.

        It describes the draft, even if GET would render the final at once: only the bytes can say
        which of two formats the final has.
        """
        first, origin = self.plan.draft or self.plan.variant, Origin.NONE
        self.check(first, origin)
        if self.client_has(first, origin):
            return self.not_modified(first, origin)
        headers = self._headers(first, first.format, origin)
        return bodiless(HTTPStatus.OK, headers, outcome=self._outcome(None, None, origin))

    async def respond(self, result: DeliveryResult) -> Answer:
        """Return the response to GET or HEAD: 200, 206 for a range, or 304.

        Raises:
            SmartserveError: the render failed before any byte was sent, the range lies outside, or
                a precondition fails.
        """
        # By this plan a rendition of another recipe is a draft, in all headers and records.
        self.plan = result.plan or self.plan
        rendition, rendering = result.rendition, result.rendering
        try:
            self.check(result.variant, result.origin)
        except BaseException:
            if rendition is not None:
                rendition.close()
            raise
        current = self._conditional and self.client_has(result.variant, result.origin)
        head = self._request.method == "HEAD"
        if rendition is not None and (current or head):
            rendition.close()
        if current:
            return self.not_modified(result.variant, result.origin)
        if head:
            headers, outcome = self._described(result)
            length = None if rendition is None else rendition.length
            return bodiless(HTTPStatus.OK, headers, outcome=outcome, length=length)
        if result.body is not None:
            return self._from_body(result, result.body)
        if rendition is not None:
            return self._from_file(result, rendition)
        if rendering is None:
            raise AssertionError
        # HTTP/1.0 has no chunked coding, and a range needs the length.
        if self._request.version < HttpVersion11 or "Range" in self._request.headers:
            return self._from_body(result, await rendering.whole())
        headers, outcome = self._described(result)
        return StreamedResponse(HTTPStatus.OK, headers, rendering.chunks(), outcome=outcome)

    def _from_body(self, result: DeliveryResult, body: bytes) -> BufferedResponse:
        part = self._range(result.variant, len(body))
        headers, outcome = self._described(result)
        if part is None:
            return whole(HTTPStatus.OK, headers, body, outcome=outcome)
        headers.append(("Content-Range", part.content_range(len(body))))
        body = body[part.start : part.stop]
        return whole(HTTPStatus.PARTIAL_CONTENT, headers, body, outcome=outcome)

    def _from_file(self, result: DeliveryResult, rendition: Rendition) -> StreamedResponse:
        length = rendition.length
        try:
            part = self._range(result.variant, length)
        except BaseException:
            rendition.close()
            raise
        headers, outcome = self._described(result)
        status = HTTPStatus.OK
        if part is None:
            part = ByteRange(0, length)
        else:
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append(("Content-Range", part.content_range(length)))
        return StreamedResponse(
            status,
            headers,
            _read(rendition, part),
            outcome=outcome,
            length=part.stop - part.start,
            release=rendition.close,
        )

    def resolved(self, result: DeliveryResult, origin: Origin) -> ResolvedResponse:
        """Return the response for the response cache."""
        if result.rendition is None:
            raise AssertionError
        return resolve_response(
            self.plan,
            result.variant,
            result.format,
            origin,
            length=result.rendition.length,
            route=self._route,
            lifetimes=self._lifetimes,
        )

    def _range(self, variant: Variant, length: int) -> ByteRange | None:
        if "Range" not in self._request.headers:
            return None
        return requested_range(self._request.headers, length=length, etag=variant.etag)

    def _validators(self, variant: Variant, origin: Origin) -> list[Header]:
        """Return the headers that 200 and 304 share."""
        return self._lasting(
            validators(self.plan, variant, origin, route=self._route, lifetimes=self._lifetimes)
        )

    def _lasting(self, headers: list[Header]) -> list[Header]:
        """Return headers with the lifetime that the response may have."""
        if not self._uncached:
            return headers
        return [(name, NO_STORE if name == "Cache-Control" else text) for name, text in headers]

    def _cache_status(self, variant: Variant, origin: Origin) -> Header:
        return "Cache-Status", cache_status(origin, draft=variant is self.plan.draft)

    def _described(self, result: DeliveryResult) -> tuple[list[Header], Outcome]:
        """Return the headers of a result, and what is recorded of it."""
        queue_s = None if result.rendering is None else result.rendering.queue_s
        headers = self._headers(result.variant, result.format, result.origin, queue_s)
        return headers, self._outcome(result.variant, result.format, result.origin)

    def _headers(
        self, variant: Variant, fmt: Format, origin: Origin, queue_s: float | None = None
    ) -> list[Header]:
        spent = time.perf_counter() - self._began
        timings = [(str(origin), spent)]
        if queue_s is not None:
            # The wait for a worker is shown apart from the work.
            timings = [("queue", queue_s), (str(origin), max(0.0, spent - queue_s))]
        headers = image_headers(
            self.plan,
            variant,
            fmt,
            origin,
            route=self._route,
            lifetimes=self._lifetimes,
            timings=timings,
        )
        return [*self._lasting(headers), *self._ignored]

    def _outcome(self, variant: Variant | None, fmt: Format | None, origin: Origin) -> Outcome:
        return image_outcome(self.plan, variant, fmt, origin, self._route)


async def _read(rendition: Rendition, part: ByteRange) -> AsyncGenerator[bytes, None]:
    async for piece in rendition.chunks(part.start, part.stop):
        yield piece
