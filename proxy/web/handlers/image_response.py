"""One request whose picture is resolved: its plan, and the answers that follow from it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import HttpVersion11, web

from proxy.domain.formats import Format
from proxy.domain.outcome import Origin, Outcome
from proxy.domain.render_plan import RenderPlan
from proxy.domain.variant import Variant
from proxy.serving.delivery_result import DeliveryResult, streams
from proxy.serving.renderer import RunningRender
from proxy.settings import LifetimeSettings
from proxy.storage.renditions import Rendition
from proxy.web.cache_headers import ImageRoute
from proxy.web.conditional import ByteRange, matches, requested_range
from proxy.web.headers import Header, content_headers, server_timing, to_head, validators
from proxy.web.responses import BufferedResponse, StreamedResponse, bodiless, whole
from proxy.web.server.response_cache import ResolvedResponse

Answer = BufferedResponse | StreamedResponse


class ImageAnswer(NamedTuple):
    """What goes out: the variant, the format that its bytes have, and where they come from."""

    variant: Variant
    format: Format
    origin: Origin


class ImageResponder:
    """Makes the answers to one request."""

    def __init__(
        self,
        request: web.Request,
        plan: RenderPlan,
        *,
        route: ImageRoute,
        lifetimes: LifetimeSettings,
    ) -> None:
        """Its clock for Server-Timing starts now."""
        self._request = request
        self._plan = plan
        self._route = route
        self._lifetimes = lifetimes
        self._began = time.perf_counter()

    def not_modified(self, variant: Variant | None = None) -> BufferedResponse:
        """304, by the key alone: whether the rendition is still kept does not matter.

        ``variant`` is the draft where that is what the client has, and the final is not there.
        """
        origin = Origin.NOT_MODIFIED
        shown = variant or self._plan.variant
        headers = self._validators(shown, origin)
        outcome = self._outcome(origin, variant=shown)
        return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=outcome)

    async def head(self, found: DeliveryResult | None) -> BufferedResponse:
        """The answer to HEAD: what GET would say, with the length where it is known.

        Where nothing is there it speaks of the draft, also where GET would make the final at once:
        which of two formats that has, only its bytes can tell.
        """
        if found is None or found.rendition is None:
            first = self._plan.draft or self._plan.variant
            headers = self._headers(ImageAnswer(first, first.format, Origin.NONE))
            return bodiless(HTTPStatus.OK, headers, outcome=self._outcome(Origin.NONE))
        if found.draft and self._has(found.variant):
            found.rendition.close()
            return self.not_modified(found.variant)
        length = found.rendition.length
        picture = ImageAnswer(found.variant, await found.format(), found.origin)
        found.rendition.close()
        headers = self._headers(picture)
        return bodiless(HTTPStatus.OK, headers, outcome=self._outcome_of(picture), length=length)

    async def answer(self, delivered: DeliveryResult) -> Answer:
        """The answer to GET: 200, or 206 where one range was asked for, or 304 for a draft.

        Raises:
            SmartserveError: the render failed before anything went out, or the range lies outside.
        """
        if delivered.draft and self._has(delivered.variant):
            if delivered.rendition is not None:
                delivered.rendition.close()
            return self.not_modified(delivered.variant)
        picture = ImageAnswer(delivered.variant, await delivered.format(), delivered.origin)
        if delivered.rendering is not None:
            return await self._from_render(picture, delivered.rendering)
        if delivered.rendition is None:
            raise AssertionError
        if delivered.rendition.body is not None:
            return self._from_body(picture, delivered.rendition.body)
        return self._from_file(picture, delivered.rendition)

    def _has(self, variant: Variant) -> bool:
        known = self._request.headers.getall("If-None-Match", ())
        return matches(", ".join(known), variant.etag)

    async def _from_render(self, picture: ImageAnswer, rendering: RunningRender) -> Answer:
        stream = rendering.stream
        chunked = self._request.version >= HttpVersion11 and "Range" not in self._request.headers
        if not chunked or not streams(picture.variant) or stream.complete:
            return self._from_body(picture, await stream.whole(), rendering.queue_s)
        headers = self._headers(picture, rendering.queue_s)
        outcome = self._outcome_of(picture)
        return StreamedResponse(HTTPStatus.OK, headers, stream.chunks(), outcome=outcome)

    def _from_body(
        self, picture: ImageAnswer, body: bytes, queue_s: float | None = None
    ) -> BufferedResponse:
        headers = self._headers(picture, queue_s)
        outcome = self._outcome_of(picture)
        part = self._range(picture.variant, len(body))
        if part is None:
            return whole(HTTPStatus.OK, headers, body, outcome=outcome)
        headers.append(("Content-Range", part.content_range(len(body))))
        piece = body[part.start : part.stop]
        return whole(HTTPStatus.PARTIAL_CONTENT, headers, piece, outcome=outcome)

    def _from_file(self, picture: ImageAnswer, rendition: Rendition) -> StreamedResponse:
        try:
            part = self._range(picture.variant, rendition.length)
        except BaseException:
            rendition.close()
            raise
        headers = self._headers(picture)
        status = HTTPStatus.OK
        if part is None:
            part = ByteRange(0, rendition.length)
        else:
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append(("Content-Range", part.content_range(rendition.length)))
        return StreamedResponse(
            status,
            headers,
            _pieces(rendition, part),
            outcome=self._outcome_of(picture),
            length=part.stop - part.start,
            release=rendition.close,
        )

    def resolved(self, picture: ImageAnswer, length: int) -> ResolvedResponse:
        """An answer from a store, ready to be given again without being worked out."""
        variant = picture.variant
        headers = [
            *self._described(picture),
            ("Server-Timing", picture.origin),
            ("Content-Length", str(length)),
        ]
        not_modified = self._validators(variant, Origin.NOT_MODIFIED)
        return ResolvedResponse(
            media=self._plan.media,
            variant=variant,
            origin=picture.origin,
            length=length,
            head=to_head(HTTPStatus.OK, headers),
            outcome=self._outcome_of(picture),
            not_modified_head=to_head(HTTPStatus.NOT_MODIFIED, not_modified),
            not_modified_outcome=self._outcome(Origin.NOT_MODIFIED, variant=variant),
        )

    def _range(self, variant: Variant, length: int) -> ByteRange | None:
        return requested_range(self._request.headers, length=length, etag=variant.etag)

    def _headers(self, picture: ImageAnswer, queue_s: float | None = None) -> list[Header]:
        timing = server_timing(self._timings(picture.origin, queue_s))
        return [*self._described(picture), ("Server-Timing", timing)]

    def _described(self, picture: ImageAnswer) -> list[Header]:
        content = content_headers(self._plan, picture.format)
        return [*content, *self._validators(picture.variant, picture.origin)]

    def _validators(self, variant: Variant, origin: Origin) -> list[Header]:
        return validators(self._plan, variant, origin, route=self._route, lifetimes=self._lifetimes)

    def _timings(self, origin: Origin, queue_s: float | None) -> list[tuple[str, float]]:
        """The wait for a worker apart from the work, where there was one."""
        spent = time.perf_counter() - self._began
        if queue_s is None:
            return [(origin, spent)]
        return [("queue", queue_s), (origin, max(0.0, spent - queue_s))]

    def _outcome_of(self, picture: ImageAnswer) -> Outcome:
        return self._outcome(picture.origin, picture.format, variant=picture.variant)

    def _outcome(
        self, origin: Origin, fmt: Format | None = None, *, variant: Variant | None = None
    ) -> Outcome:
        return Outcome(
            self._route,
            self._plan.request.label,
            fmt or self._plan.variant.format,
            origin,
            media_id=self._plan.media.id,
            variant=variant,
            stage=self._stage(variant),
        )

    def _stage(self, variant: Variant | None) -> str:
        """Which of its two qualities a picture has; empty for another size that stands in."""
        if variant is None:
            return ""
        if variant == self._plan.draft:
            return "draft"
        return "final" if variant == self._plan.variant else ""


async def _pieces(rendition: Rendition, part: ByteRange) -> AsyncGenerator[bytes, None]:
    async for piece in rendition.chunks(part.start, part.stop):
        yield piece
