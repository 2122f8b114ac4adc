"""Problem details (RFC 9457): every error response is JSON that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from proxy.domain.errors import (
    BadParameter,
    MediaNotReady,
    RangeNotSatisfiable,
    SmartserveError,
    Unauthorized,
)
from proxy.domain.request import Outcome
from proxy.web.headers import NO_STORE, SECURITY, Header
from proxy.web.responses import BufferedResponse, whole
from proxy.web.server.request_validation import RequestRejection

_RETRY_AFTER_S = 5
"""For a 503 whose error names no time."""

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """The JSON of an error response."""

    title: str
    status: int
    detail: str
    parameter: str | None = None
    """Of a 400: the parameter whose value is not allowed."""
    allowed: str | None = None
    forwarded: bool | None = None
    """Of a 401 without a token: whether a proxy forwarded the request."""


def problem(
    error: SmartserveError,
    *,
    outcome: Outcome,
    not_found_s: int = 0,
    negotiated: bool = False,
    security: Sequence[Header] = SECURITY,
) -> BufferedResponse:
    """Return the response for an error.

    Only a 404 may be cached, for ``not_found_s`` or until Retry-After, whichever is shorter. If the
    image would have been ``negotiated``, it has the same Vary header.
    """
    headers = [("Cache-Control", _cache_control(error, not_found_s))]
    # Without Retry-After many clients retry a 503 at once, which prolongs the overload.
    wait = error.retry_after_s
    if wait is None and error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        wait = _RETRY_AFTER_S
    if negotiated and error.status == HTTPStatus.NOT_FOUND:
        headers.append(("Vary", "Accept"))
    members: dict[str, object] = {}
    match error:
        case BadParameter():
            members = {"parameter": error.parameter, "allowed": error.allowed}
        case RangeNotSatisfiable():
            # RFC 9110, 15.5.17: tells the client the length that it assumed wrongly.
            headers.append(("Content-Range", f"bytes */{error.length}"))
        case Unauthorized():
            # RFC 9110, 15.5.2: a 401 must have a challenge.
            headers.append(("WWW-Authenticate", error.challenge))
            members = {} if error.forwarded is None else {"forwarded": error.forwarded}
    return render_problem(
        error.status,
        error.title,
        error.detail,
        outcome=outcome._replace(error=type(error).__name__),
        headers=headers,
        retry_after_s=wait,
        members=members,
        security=security,
    )


def refused(rejection: RequestRejection) -> BufferedResponse:
    """Return the response to a request that is rejected before it is routed."""
    return render_problem(
        rejection.status,
        rejection.title,
        rejection.detail,
        outcome=Outcome("malformed" if rejection.retry_after_s is None else "over_limit"),
        retry_after_s=rejection.retry_after_s,
    )


def _cache_control(error: SmartserveError, not_found_s: int) -> str:
    # Any other error may be over at the next request. A cached 404 keeps requests for ids that do
    # not exist away from the database.
    if error.status != HTTPStatus.NOT_FOUND or not_found_s == 0:
        return NO_STORE
    if isinstance(error, MediaNotReady) and error.retry_after_s is not None:
        not_found_s = min(not_found_s, error.retry_after_s)
    return f"public, max-age={not_found_s}"


def render_problem(
    status: int,
    title: str,
    detail: str,
    *,
    outcome: Outcome,
    headers: Sequence[Header] = (("Cache-Control", NO_STORE),),
    retry_after_s: int | None = None,
    members: Mapping[str, object] | None = None,
    security: Sequence[Header] = SECURITY,
) -> BufferedResponse:
    """Return problem details with any status; by default, pages of any origin may read them."""
    body = {"title": title, "status": status, "detail": detail, **(members or {})}
    wait = [] if retry_after_s is None else [("Retry-After", str(retry_after_s))]
    lines = [("Content-Type", MEDIA_TYPE), *headers, *wait, *security]
    return whole(status, lines, orjson.dumps(body), outcome=outcome)
