"""JSON responses: values with and without an ETag, and problem details for errors (RFC 9457)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, wraps
from hashlib import blake2b
from http import HTTPStatus
from typing import TypeVar

import orjson
from aiohttp import web

from proxy.domain.errors import (
    BadParameter,
    NoFile,
    PreconditionFailed,
    RangeNotSatisfiable,
    SmartserveError,
    TierInsufficient,
    Unauthorized,
    UnsupportedBody,
    UpgradeRequired,
)
from proxy.domain.request import Outcome
from proxy.runtime.deferred_json import as_fragment
from proxy.web.conditional import check_preconditions, matches
from proxy.web.headers import NO_STORE, PRIVATE, SECURITY, Header
from proxy.web.responses import Answer, BufferedResponse, whole
from proxy.web.server.parser import RequestRejection

TIER = web.RequestKey("tier", str)
"""Key of the tier of a metadata request's caller, for metrics."""

PROBLEM_TYPE = "application/problem+json"
_JSON: Header = ("Content-Type", "application/json")
_RETRY_AFTER_S = 5
"""For a 503 whose error names no time."""

_Handlers = TypeVar("_Handlers")
_Work = Callable[[_Handlers, web.Request], Awaitable[object]]
_Route = Callable[[_Handlers, web.Request], Awaitable[Answer]]
# Times as in 2026-01-31T12:00:00Z.
_dumps = partial(
    orjson.dumps, default=as_fragment, option=orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS
)


@dataclass(frozen=True, slots=True)
class Problem:
    """The JSON of an error response."""

    title: str
    status: int
    detail: str
    parameter: str | None = None
    """Of a 400: the parameter whose value is not allowed."""
    allowed: str | None = None
    error: str | None = None
    """Of a metadata route: what to show to a user."""
    code: str | None = None
    """Of a metadata route: a name for programs."""
    needs: str | None = None
    """Of a 403 of a metadata route: the tier that is sufficient."""
    forwarded: str | None = None
    """Of a 401 without a token: whether the address that a proxy reports was "used", "ignored"
    because the proxy is not trusted, or is "missing"."""


def json_route(
    route: str, *, security: Sequence[Header] = PRIVATE, coded: bool = False, fault: str = ""
) -> Callable[[_Work[_Handlers]], _Route[_Handlers]]:
    """Decorator: makes a request handler from a method that returns a value for JSON.

    The value is sent with ``Cache-Control: no-store`` and by default without CORS headers, so
    neither caches nor pages of other origins can read it. A `SmartserveError` becomes problem
    details, see `problem` for ``coded`` and ``fault``. A method that needs other headers returns a
    complete response instead of a value.
    """
    outcome = Outcome(route)

    def decorate(work: _Work[_Handlers]) -> _Route[_Handlers]:
        @wraps(work)
        async def handle(self: _Handlers, request: web.Request) -> Answer:
            try:
                value = await work(self, request)
            except SmartserveError as error:
                sent = _counted(outcome, request, error.code) if coded else outcome
                return problem(error, outcome=sent, security=security, coded=coded, fault=fault)
            # A complete response: a stream, or JSON with an ETag.
            if isinstance(value, Answer):
                return value
            sent = _counted(outcome, request, "OK") if coded else outcome
            return uncached_json(value, outcome=sent, security=security)

        return handle

    return decorate


def _counted(outcome: Outcome, request: web.Request, code: str) -> Outcome:
    return outcome._replace(code=code, tier=request.get(TIER, ""))


def uncached_json(value: object, *, outcome: Outcome, security: Sequence[Header]) -> Answer:
    """Return JSON without an ETag: nothing may be stored, so there is nothing to revalidate."""
    headers = [_JSON, ("Cache-Control", NO_STORE), *security]
    return whole(HTTPStatus.OK, headers, _dumps(value), outcome=outcome)


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
    return with_etag(request, _dumps(value), [_JSON], headers, outcome=outcome)


def with_etag(
    request: web.Request,
    body: bytes,
    content: Sequence[Header],
    headers: Sequence[Header],
    *,
    outcome: Outcome,
) -> BufferedResponse:
    """Return 200, 304 if If-None-Match names the body, or 412 if If-Match does not.

    ``content`` describes the body and is left out of a 304 (RFC 9110, 15.4.5). The ETag is a hash
    of the bytes, so all nodes that serve the same bytes agree on it.
    """
    etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    lines = [("ETag", etag), *headers]
    try:
        check_preconditions(request.headers, etag)
    except PreconditionFailed as error:
        readers = {name for name, _ in SECURITY}
        security = [line for line in headers if line[0] in readers]
        return problem(error, outcome=outcome, security=security)
    if matches(", ".join(request.headers.getall("If-None-Match", ())), etag):
        return whole(HTTPStatus.NOT_MODIFIED, lines, b"", outcome=outcome)
    return whole(HTTPStatus.OK, [*content, *lines], body, outcome=outcome)


def problem(
    error: SmartserveError,
    *,
    outcome: Outcome,
    not_found_s: int = 0,
    negotiated: bool = False,
    security: Sequence[Header] = SECURITY,
    coded: bool = False,
    fault: str = "",
) -> BufferedResponse:
    """Return the response for an error.

    That of a ``coded`` route has the members ``error`` and ``code``; ``fault`` replaces the
    sentence of errors of the server.

    Only a 404 may be cached, for ``not_found_s`` or until Retry-After, whichever is shorter. If the
    image would have been ``negotiated``, it has the same Vary header.
    """
    wait, lifetime = error.retry_after_s, NO_STORE
    # Without Retry-After many clients retry a 503 at once, which prolongs the overload.
    if wait is None and error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        wait = _RETRY_AFTER_S
    # Any other error may be over at the next request. A cached 404 keeps requests for ids that do
    # not exist away from the database.
    if error.status == HTTPStatus.NOT_FOUND and not_found_s > 0:
        lifetime = f"public, max-age={min(not_found_s, wait or not_found_s)}"
    headers = [("Cache-Control", lifetime)]
    if negotiated and error.status == HTTPStatus.NOT_FOUND:
        headers.append(("Vary", "Accept"))
    body = Problem(error.title, error.status, error.detail)
    match error:
        case BadParameter():
            body = replace(body, parameter=error.parameter, allowed=error.allowed)
        case RangeNotSatisfiable():
            # RFC 9110, 15.5.17: tells the client the length that it assumed wrongly.
            headers.append(("Content-Range", f"bytes */{error.length}"))
        case Unauthorized():
            # RFC 9110, 15.5.2: a 401 must have a challenge.
            headers.append(("WWW-Authenticate", error.challenge))
            body = replace(body, forwarded=error.forwarded)
        case UpgradeRequired():
            # RFC 9110, 15.5.22, and RFC 6455, 4.4.
            headers += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    if coded:
        body = _coded(body, error, fault)
    outcome = outcome._replace(error=type(error).__name__)
    return render_problem(
        body, outcome=outcome, headers=headers, retry_after_s=wait, security=security
    )


def _coded(body: Problem, error: SmartserveError, fault: str) -> Problem:
    sentence = error.detail
    match error:
        case NoFile():
            sentence = error.title
        case TierInsufficient():
            body = replace(body, needs=error.needs)
        case UnsupportedBody():
            # The requirements of the metadata routes name 400 for a wrong file type, and no 415.
            body = replace(body, status=HTTPStatus.BAD_REQUEST)
        case _ if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            sentence = fault or sentence
    return replace(body, error=sentence, code=error.code)


def refused(rejection: RequestRejection) -> BufferedResponse:
    """Return the response to a request that is rejected before it is routed."""
    return render_problem(
        Problem(rejection.title, rejection.status, rejection.detail),
        outcome=Outcome("malformed" if rejection.retry_after_s is None else "over_limit"),
        retry_after_s=rejection.retry_after_s,
    )


def render_problem(
    body: Problem,
    *,
    outcome: Outcome,
    headers: Sequence[Header] = (("Cache-Control", NO_STORE),),
    retry_after_s: int | None = None,
    security: Sequence[Header] = SECURITY,
) -> BufferedResponse:
    """Return problem details with any status; by default, pages of any origin may read them."""
    members = {name: value for name, value in asdict(body).items() if value is not None}
    wait = [] if retry_after_s is None else [("Retry-After", str(retry_after_s))]
    lines = [("Content-Type", PROBLEM_TYPE), *headers, *wait, *security]
    return whole(body.status, lines, orjson.dumps(members), outcome=outcome)
