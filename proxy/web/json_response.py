"""Responses whose body is made in memory: JSON, with or without an ETag."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from hashlib import blake2b
from http import HTTPStatus
from typing import TypeVar

import orjson
from aiohttp import web

from proxy.domain.errors import SmartserveError
from proxy.domain.request import Outcome
from proxy.web.conditional import matches
from proxy.web.headers import NO_STORE, PRIVATE, SECURITY, Header
from proxy.web.problem_details import problem
from proxy.web.responses import BufferedResponse, StreamedResponse, whole

JSON: Header = ("Content-Type", "application/json")

Answer = BufferedResponse | StreamedResponse
_Handlers = TypeVar("_Handlers")
_Work = Callable[[_Handlers, web.Request], Awaitable[object]]
_Route = Callable[[_Handlers, web.Request], Awaitable[Answer]]


def private_route(route: str) -> Callable[[_Work[_Handlers]], _Route[_Handlers]]:
    """Decorator: makes a request handler from a method that returns a value for JSON.

    The value is sent with ``Cache-Control: no-store`` and without CORS headers, so neither
    caches nor pages of other origins can read it. A `SmartserveError` becomes problem details.
    A method that needs other headers returns a complete response instead of a value.
    """
    outcome = Outcome(route)

    def decorate(work: _Work[_Handlers]) -> _Route[_Handlers]:
        @wraps(work)
        async def handle(self: _Handlers, request: web.Request) -> Answer:
            try:
                value = await work(self, request)
            except SmartserveError as error:
                return problem(error, outcome=outcome, security=PRIVATE)
            # A complete response: a stream, or JSON with an ETag.
            if isinstance(value, BufferedResponse | StreamedResponse):
                return value
            return uncached_json(value, outcome, security=PRIVATE)

        return handle

    return decorate


def uncached_json(
    value: object, outcome: Outcome, *, security: Sequence[Header] = SECURITY
) -> BufferedResponse:
    """Return a 200 that no cache stores."""
    headers = [JSON, ("Cache-Control", NO_STORE), *security]
    return whole(HTTPStatus.OK, headers, orjson.dumps(value), outcome=outcome)


def cached_json(
    request: web.Request,
    value: object,
    *,
    lifetime: str,
    outcome: Outcome,
    security: Sequence[Header] = SECURITY,
) -> BufferedResponse:
    """Return JSON with an ETag; ``lifetime`` is the value of Cache-Control."""
    headers = [("Cache-Control", lifetime), *security]
    return with_etag(request, orjson.dumps(value), [JSON], headers, outcome=outcome)


def with_etag(
    request: web.Request,
    body: bytes,
    content: Sequence[Header],
    headers: Sequence[Header],
    *,
    outcome: Outcome,
) -> BufferedResponse:
    """Return 200, or 304 if If-None-Match names the body.

    ``content`` describes the body and is left out of a 304 (RFC 9110, 15.4.5). The ETag is a hash
    of the bytes, so all nodes that serve the same bytes agree on it.
    """
    etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    lines = [("ETag", etag), *headers]
    if matches(", ".join(request.headers.getall("If-None-Match", ())), etag):
        return whole(HTTPStatus.NOT_MODIFIED, lines, b"", outcome=outcome)
    return whole(HTTPStatus.OK, [*content, *lines], body, outcome=outcome)
