"""Request validation: rejects well-formed requests that are unsafe to serve; pure functions.

aiohttp's parser rejects what is not HTTP/1.1. These functions reject what the parser accepts, but
two servers in a row could interpret differently (request smuggling). Each such request gets one
4xx, and the connection is closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?", re.ASCII)
_LONGEST_HOST = 261
"""A name of 255 characters and a port. Longer ones are not cached by `is_host`."""
_BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS", "TRACE"))
_BODY_PATHS = re.compile(r"/info|/users/me|/api/media/complete/[^/?]+")
"""Paths that accept a body. The application decides with which method, by a 405."""
_LINE_EXTRA = 4
"""Bytes of the colon, a space and the line end of each header line."""


@dataclass(frozen=True, slots=True)
class RequestRejection:
    """Why a request is rejected. The detail contains no text of the client."""

    status: int
    title: str
    detail: str
    retry_after_s: int | None = None


def bad_request(detail: str) -> RequestRejection:
    """Return a 400 with this sentence."""
    return RequestRejection(HTTPStatus.BAD_REQUEST, "Bad request", detail)


MALFORMED = bad_request("this is not a well-formed HTTP/1.1 request")
TOO_SLOW = RequestRejection(
    HTTPStatus.REQUEST_TIMEOUT, "Request timeout", "the head of the request did not arrive in time"
)
OVER_LIMIT = RequestRejection(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many connections",
    "this server has reached its limit of open connections; retry later",
    retry_after_s=5,
)
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
_VERSION = bad_request("this server supports HTTP/1.1 and HTTP/1.0")
_TARGET = bad_request(
    "the target has to be a path such as /serve/1: no whole URL, no authority, no asterisk, no #"
)
_BAD_HOST = bad_request("the Host header has to be a name or an address, with a port or without")
_NO_BODY = bad_request("a request with this method has no body here")
_TOO_LARGE = RequestRejection(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Content too large", "no body is accepted at this address"
)


def head_too_large(max_bytes: int) -> RequestRejection:
    """Return the rejection of a head of more than ``max_bytes``."""
    return RequestRejection(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "Request head too large",
        f"the head of a request may have {max_bytes} bytes",
    )


def fault(message: RawRequestMessage, payload: object) -> RequestRejection | None:
    """Return why a parsed request is rejected, or None."""
    if message.version not in (HttpVersion11, HttpVersion10):
        return _VERSION
    # Absolute-form is rejected although servers must accept it (RFC 9112, 3.2.2): only clients that
    # mistake this server for a forward proxy send it, and it names a second host beside Host.
    if message.method == "CONNECT" or message.path[:1] != "/" or "#" in message.path:
        return _TARGET
    if not is_host(message.headers.get("Host", "absent")):
        return _BAD_HOST
    # No body, neither by Content-Length nor in chunks.
    if payload is EMPTY_PAYLOAD and "Transfer-Encoding" not in message.headers:
        return None
    if _takes_body(message):
        return None
    return _NO_BODY if message.method in _BODILESS else _TOO_LARGE


def _takes_body(message: RawRequestMessage) -> bool:
    """Return whether the address accepts a body. The handler limits its size."""
    path = message.path.partition("?")[0]
    return message.method not in _BODILESS and _BODY_PATHS.fullmatch(path) is not None


def fault_in_reserve(message: RawRequestMessage, payload: object) -> RequestRejection | None:
    """Return as `fault`; on a reserve slot, also reject all requests that are not probes."""
    rejection = fault(message, payload)
    if rejection is None and message.path.partition("?")[0] not in _PROBES:
        return OVER_LIMIT
    return rejection


@lru_cache(maxsize=1024)
def is_host(text: str) -> bool:
    """Return whether a Host header is a host with or without a port (RFC 9110, 7.2)."""
    return len(text) <= _LONGEST_HOST and _HOST.fullmatch(text) is not None


def is_last(message: RawRequestMessage) -> bool:
    """Return whether no further request is read on the connection."""
    # Upgrade is ignored (RFC 9110, 7.8), but its client may continue in that protocol. TRACE has
    # no legitimate use here.
    return bool(message.upgrade) or message.method == "TRACE"


def head_bytes(message: RawRequestMessage) -> int:
    """Return the approximate size of a request head in bytes."""
    lines = sum(len(name) + len(value) + _LINE_EXTRA for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + lines
