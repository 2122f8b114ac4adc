"""One request whose picture is resolved: its plan, and the answers that follow from it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from http import HTTPStatus

from aiohttp import HttpVersion11, web

from proxy.delivery import Delivered, Origin, Plan, Rendering, streams
from proxy.metrics import Outcome
from proxy.renditions import Rendition
from proxy.settings import LifetimeSettings
from proxy.variant import Variant
from proxy.web.caching import Route
from proxy.web.conditional import ByteRange, requested_range
from proxy.web.headers import Header, content_headers, server_timing, to_head, validators
from proxy.web.hot import Resolved
from proxy.web.responses import PieceResponse, WholeResponse, bodiless, whole

Answer = WholeResponse | PieceResponse


class Exchange:
    """Makes the answers to one request."""

    def __init__(
        self,
        request: web.Request,
        plan: Plan,
        *,
        route: Route,
        lifetimes: LifetimeSettings,
    ) -> None:
        """Its clock for Server-Timing starts now."""
        self._request = request
        self._plan = plan
        self._route = route
        self._lifetimes = lifetimes
        self._began = time.perf_counter()

    def not_modified(self) -> WholeResponse:
        """304, by the key alone: whether the rendition is still kept does not matter."""
        origin = Origin.NOT_MODIFIED
        headers = self._validators(self._plan.variant, origin)
        return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=self._outcome(origin))

    def head(self, found: Delivered | None) -> WholeResponse:
        """The answer to HEAD: what GET would say, with the length where it is known."""
        if found is None or found.rendition is None:
            headers = self._headers(self._plan.variant, Origin.NONE)
            return bodiless(HTTPStatus.OK, headers, outcome=self._outcome(Origin.NONE))
        length = found.rendition.length
        found.rendition.close()
        return bodiless(
            HTTPStatus.OK,
            self._headers(found.variant, found.origin),
            outcome=self._outcome(found.origin),
            length=length,
        )

    async def answer(self, delivered: Delivered) -> Answer:
        """The answer to GET: 200, or 206 where one range was asked for.

        Raises:
            SmartserveError: the render failed before anything went out, or the range lies outside.
        """
        if delivered.rendering is not None:
            return await self._from_render(delivered, delivered.rendering)
        if delivered.rendition is None:
            raise AssertionError
        if delivered.rendition.body is not None:
            return self._from_body(delivered, delivered.rendition.body)
        return self._from_file(delivered, delivered.rendition)

    async def _from_render(self, delivered: Delivered, rendering: Rendering) -> Answer:
        stream = rendering.stream
        chunked = self._request.version >= HttpVersion11 and "Range" not in self._request.headers
        if not chunked or not streams(delivered.variant) or stream.complete:
            return self._from_body(delivered, await stream.whole())
        headers = self._headers(delivered.variant, delivered.origin, rendering.queue_s)
        outcome = self._outcome(delivered.origin, delivered.variant)
        return PieceResponse(HTTPStatus.OK, headers, stream.chunks(), outcome=outcome)

    def _from_body(self, delivered: Delivered, body: bytes) -> WholeResponse:
        queue_s = None if delivered.rendering is None else delivered.rendering.queue_s
        headers = self._headers(delivered.variant, delivered.origin, queue_s)
        outcome = self._outcome(delivered.origin, delivered.variant)
        part = self._range(delivered.variant, len(body))
        if part is None:
            return whole(HTTPStatus.OK, headers, body, outcome=outcome)
        headers.append(("Content-Range", part.content_range(len(body))))
        piece = body[part.start : part.stop]
        return whole(HTTPStatus.PARTIAL_CONTENT, headers, piece, outcome=outcome)

    def _from_file(self, delivered: Delivered, rendition: Rendition) -> PieceResponse:
        try:
            part = self._range(delivered.variant, rendition.length)
        except BaseException:
            rendition.close()
            raise
        headers = self._headers(delivered.variant, delivered.origin)
        status = HTTPStatus.OK
        if part is None:
            part = ByteRange(0, rendition.length)
        else:
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append(("Content-Range", part.content_range(rendition.length)))
        return PieceResponse(
            status,
            headers,
            _pieces(rendition, part),
            outcome=self._outcome(delivered.origin, delivered.variant),
            length=part.stop - part.start,
            release=rendition.close,
        )

    def resolved(self, variant: Variant, length: int) -> Resolved:
        """The answer from memory, ready to be given again without being worked out."""
        origin = Origin.MEMORY
        headers = [
            *self._described(variant, origin),
            ("Server-Timing", origin),
            ("Content-Length", str(length)),
        ]
        not_modified = self._validators(variant, Origin.NOT_MODIFIED)
        return Resolved(
            media_id=self._plan.media.id,
            digest=variant.digest,
            etag=variant.etag,
            head=to_head(HTTPStatus.OK, headers),
            outcome=self._outcome(origin, variant),
            not_modified_head=to_head(HTTPStatus.NOT_MODIFIED, not_modified),
            not_modified_outcome=self._outcome(Origin.NOT_MODIFIED),
        )

    def _range(self, variant: Variant, length: int) -> ByteRange | None:
        return requested_range(self._request.headers, length=length, etag=variant.etag)

    def _headers(
        self, variant: Variant, origin: Origin, queue_s: float | None = None
    ) -> list[Header]:
        timing = server_timing(self._timings(origin, queue_s))
        return [*self._described(variant, origin), ("Server-Timing", timing)]

    def _described(self, variant: Variant, origin: Origin) -> list[Header]:
        return [*content_headers(self._plan, variant), *self._validators(variant, origin)]

    def _validators(self, variant: Variant, origin: Origin) -> list[Header]:
        return validators(self._plan, variant, origin, route=self._route, lifetimes=self._lifetimes)

    def _timings(self, origin: Origin, queue_s: float | None) -> list[tuple[str, float]]:
        """The wait for a worker apart from the work, where there was one."""
        spent = time.perf_counter() - self._began
        if queue_s is None:
            return [(origin, spent)]
        return [("queue", queue_s), (origin, max(0.0, spent - queue_s))]

    def _outcome(self, origin: Origin, variant: Variant | None = None) -> Outcome:
        fmt = (variant or self._plan.variant).format
        label = self._plan.request.label
        return Outcome(self._route, label, fmt, origin, media_id=self._plan.media.id)


async def _pieces(rendition: Rendition, part: ByteRange) -> AsyncGenerator[bytes, None]:
    async for piece in rendition.chunks(part.start, part.stop):
        yield piece
