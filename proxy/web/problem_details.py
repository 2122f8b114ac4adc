"""Problem details (RFC 9457): every error as JSON that says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson

from proxy.domain.errors import (
    BadParameter,
    MediaNotReady,
    RangeNotSatisfiable,
    SmartserveError,
    Unauthorized,
)
from proxy.domain.outcome import Outcome
from proxy.web.cache_headers import NO_STORE
from proxy.web.headers import SECURITY, Header
from proxy.web.responses import BufferedResponse, whole
from proxy.web.server.request_validation import RequestRejection

_RETRY_AFTER_S = 5
"""Where an error does not say when to come back."""

MEDIA_TYPE = "application/problem+json"


def problem(
    error: SmartserveError,
    *,
    outcome: Outcome,
    not_found_s: int = 0,
    negotiated: bool = False,
    security: Sequence[Header] = SECURITY,
) -> BufferedResponse:
    """The answer that an error gives.

    Only a 404 may be kept, for ``not_found_s`` or as long as Retry-After says; where the picture
    would have been negotiated it carries the same Vary.
    """
    headers = [("Cache-Control", _cache_control(error, not_found_s))]
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    elif error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", str(_RETRY_AFTER_S)))
    if isinstance(error, RangeNotSatisfiable):
        headers.append(("Content-Range", f"bytes */{error.length}"))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", error.challenge))
    if negotiated and error.status == HTTPStatus.NOT_FOUND:
        headers.append(("Vary", "Accept"))
    return render_problem(
        error.status,
        error.title,
        error.detail,
        headers=headers,
        outcome=outcome._replace(error=type(error).__name__),
        extra=_members(error),
        security=security,
    )


def refused(refusal: RequestRejection) -> BufferedResponse:
    """The answer to a request that is refused before its address was looked at."""
    wait = refusal.retry_after_s
    return render_problem(
        refusal.status,
        refusal.title,
        refusal.detail,
        headers=[
            ("Cache-Control", NO_STORE),
            *([] if wait is None else [("Retry-After", str(wait))]),
        ],
        outcome=Outcome("malformed" if wait is None else "over_limit"),
    )


def _members(error: SmartserveError) -> dict[str, Any]:
    if isinstance(error, BadParameter):
        return {"parameter": error.parameter, "allowed": error.allowed}
    if isinstance(error, Unauthorized) and error.forwarded is not None:
        return {"forwarded": error.forwarded}
    return {}


def _cache_control(error: SmartserveError, not_found_s: int) -> str:
    if error.status != HTTPStatus.NOT_FOUND or not_found_s == 0:
        return NO_STORE
    if isinstance(error, MediaNotReady) and error.retry_after_s is not None:
        return f"public, max-age={min(not_found_s, error.retry_after_s)}"
    return f"public, max-age={not_found_s}"


def render_problem(
    status: int,
    title: str,
    detail: str,
    *,
    outcome: Outcome,
    headers: list[Header] | None = None,
    extra: dict[str, Any] | None = None,
    security: Sequence[Header] = SECURITY,
) -> BufferedResponse:
    """Problem details with any status; those of a picture route may be read by any page."""
    members = {"title": title, "status": status, "detail": detail, **(extra or {})}
    lines = [
        ("Content-Type", MEDIA_TYPE),
        *(headers or [("Cache-Control", NO_STORE)]),
        *security,
    ]
    return whole(status, lines, orjson.dumps(members), outcome=outcome)
