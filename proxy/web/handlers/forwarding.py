"""Answers ``/api/images`` of the main server with images of the media server."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from aiohttp import HttpVersion11, web

from proxy.domain.errors import ForwardLoop
from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.request import Origin, Outcome, VariantRequest
from proxy.domain.urls import SERVE_ROUTE
from proxy.settings import LifetimeSettings
from proxy.web.conditional import check_preconditions, not_modified, requested_range
from proxy.web.forward import ForwardedRequest, MediaForwarder
from proxy.web.headers import NO_STORE, SECURITY, Header, ImageRoute, cache_status, ignored_header
from proxy.web.media_server import ForwardedResponse
from proxy.web.request_input import as_utf8
from proxy.web.responses import Answer, StreamedResponse, bodiless, whole

_CONDITIONS = ("If-None-Match", "If-Modified-Since", "Range", "If-Range")
_CONTENT = ("Content-Type", "Content-Disposition", "Content-Range", "Smartserve-Background")
_FORMATS = {media_type: fmt for fmt, media_type in SOURCE_MEDIA_TYPES.items()}


class ForwardedImages:
    """Answers requests for images that the media server has."""

    def __init__(
        self,
        forwarder: MediaForwarder,
        lifetimes: LifetimeSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` is that of the forwarder."""
        self._forwarder = forwarder
        self._lifetimes = lifetimes
        self._clock = clock

    async def answer(
        self,
        request: web.Request,
        route: ImageRoute,
        media_id: int,
        wanted: VariantRequest,
        *,
        uncached: bool = False,
    ) -> Answer | None:
        """Return the response, or None if this server has the image.

        No cache keeps an ``uncached`` response.

        Raises:
            SmartserveError: the media server failed, or the request came back in a loop.
        """
        self._forwarder.check(request.headers)
        # Addresses under /serve are those of this server's own media.
        if route is ImageRoute.SERVE or not await self._forwarder.applies(media_id):
            return None
        query = request.rel_url.raw_query_string
        forwarded = ForwardedRequest(
            media_id,
            f"{SERVE_ROUTE.format(**request.match_info)}{f'?{query}' if query else ''}",
            wanted,
            as_utf8(", ".join(request.headers.getall("Accept", ()))) or "*/*",
        )
        try:
            response = await self._fetch(request, forwarded)
        except ForwardLoop:
            if not self._forwarder.deactivate():
                raise
            return None
        try:
            return await self._answer(request, route, forwarded, response, uncached=uncached)
        except BaseException:
            response.release()
            raise

    async def _fetch(self, request: web.Request, forwarded: ForwardedRequest) -> ForwardedResponse:
        conditions = {
            name: as_utf8(", ".join(values))
            for name in _CONDITIONS
            if (values := request.headers.getall(name, ()))
        }
        # A signed response is never stored: it is private, and this server cannot check signatures.
        # What is stored of the same image without a signature is public.
        if forwarded.wanted.signature is not None:
            public = replace(forwarded, wanted=replace(forwarded.wanted, signature=None))
            stored = await self._forwarder.find(public)
            return stored or await self._forwarder.relay(forwarded, request.method, conditions)
        if request.method == "GET" and not conditions:
            return await self._forwarder.fetch(forwarded)
        # What is stored can answer any request; else the media server does.
        stored = await self._forwarder.find(forwarded)
        return stored or await self._forwarder.relay(forwarded, request.method, conditions)

    async def _answer(
        self,
        request: web.Request,
        route: ImageRoute,
        forwarded: ForwardedRequest,
        response: ForwardedResponse,
        *,
        uncached: bool,
    ) -> Answer:
        fmt = _FORMATS.get(response.headers.get("Content-Type", ""), "none")
        outcome = Outcome(
            route, forwarded.wanted.box.name, fmt, response.origin, media_id=forwarded.media_id
        )
        # Not that of the media server: its stored response answers requests with other parameters.
        headers = [*self._headers(response), *ignored_header(request.rel_url.raw_query_string)]
        if uncached:
            control = "Cache-Control"
            headers = [*((n, v) for n, v in headers if n != control), (control, NO_STORE)]
        # These are not relayed: what is stored is checked here in any case.
        if response.etag:
            check_preconditions(request.headers, response.etag, _date(response))
        # A relayed 206 or 304 is the media server's decision.
        if response.status == HTTPStatus.NOT_MODIFIED or (
            response.status == HTTPStatus.OK
            and response.etag
            and not_modified(request.headers, response.etag, _date(response))
        ):
            response.release()
            headers = [one for one in headers if one[0] not in _CONTENT]
            outcome = outcome._replace(source=Origin.NOT_MODIFIED)
            return whole(HTTPStatus.NOT_MODIFIED, headers, b"", outcome=outcome)
        if request.method == "HEAD":
            response.release()
            return bodiless(HTTPStatus.OK, headers, outcome=outcome, length=response.length)
        body = response.body
        # HTTP/1.0 has no chunked coding.
        if body is None and response.length is None and request.version < HttpVersion11:
            body = b"".join([chunk async for chunk in _chunks(response)])
        if body is None:
            return StreamedResponse(
                response.status,
                headers,
                _chunks(response),
                outcome=outcome,
                length=response.length,
                release=response.release,
            )
        response.release()
        part = None
        if response.status == HTTPStatus.OK and "Range" in request.headers:
            part = requested_range(request.headers, length=len(body), etag=response.etag)
        if part is None:
            return whole(response.status, headers, body, outcome=outcome)
        headers.append(("Content-Range", part.content_range(len(body))))
        body = body[part.start : part.stop]
        return whole(HTTPStatus.PARTIAL_CONTENT, headers, body, outcome=outcome)

    def _headers(self, response: ForwardedResponse) -> list[Header]:
        """Return the headers that the media server sent, but Cache-Control as for this route."""
        headers = {**response.headers}
        lifetimes, age_s = self._lifetimes, 0
        if response.stale:
            headers["Cache-Control"] = f"public, max-age={lifetimes.fallback_s}"
        else:
            age_s = max(0, int(self._clock() - response.received_at))
            # That of a signed URL ends with its signature.
            signed = "must-revalidate" in headers.get("Cache-Control", "")
            if response.max_age_s > lifetimes.api_s and not signed:
                # An image of the media server is fresh for a year; here as any of /api/images.
                stale = lifetimes.api_stale_s
                lifetime = f"public, max-age={lifetimes.api_s}, stale-while-revalidate={stale}"
                headers["Cache-Control"] = lifetime
        return [
            *headers.items(),
            *SECURITY,
            # RFC 9111, 5.1: the response is as old as it is in this cache.
            *([("Age", str(age_s))] if age_s else []),
            ("Accept-Ranges", "bytes"),
            ("Cache-Status", f"{cache_status(response.origin)}; fwd-status={response.status}"),
        ]


async def _chunks(response: ForwardedResponse) -> AsyncGenerator[bytes, None]:
    if response.chunks is None:
        raise AssertionError
    async for chunk in response.chunks:
        yield chunk


def _date(response: ForwardedResponse) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers["Last-Modified"])
    except (KeyError, ValueError):
        return None
