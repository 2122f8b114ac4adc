"""Hygiene: which well-formed requests are refused all the same. Pure.

aiohttp's parser refuses what is no HTTP/1.1. What it lets through and two servers in a row could
read in two ways ends here: each is answered once, with a 4xx, and the connection is closed.
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
"""A name of 255 characters and a port: so the cache of those seen stays small."""
_BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS", "TRACE"))
_TAKEN = re.compile(r"/info|/users/me|/api/media/complete/[^/?]+")
"""The addresses that take a body. With which method is the application's to say, by a 405."""
_LINE_EXTRA = 4
"""The colon, a space and the line end of each header line."""


@dataclass(frozen=True, slots=True)
class RequestRejection:
    """Why a request is refused: a status, its title, and a sentence without the client's text."""

    status: int
    title: str
    detail: str
    retry_after_s: int | None = None


def bad_request(detail: str) -> RequestRejection:
    """A 400 with this sentence."""
    return RequestRejection(HTTPStatus.BAD_REQUEST, "Bad request", detail)


MALFORMED = bad_request("this is not a well-formed HTTP/1.1 request")
TOO_SLOW = RequestRejection(
    HTTPStatus.REQUEST_TIMEOUT, "Request timeout", "the head of the request took too long"
)
OVER_LIMIT = RequestRejection(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many connections",
    "as many connections are open as this server takes",
    retry_after_s=5,
)
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
_VERSION = bad_request("this server speaks HTTP/1.1 and HTTP/1.0")
_TARGET = bad_request(
    "the target has to be a path such as /serve/1: no whole URL, no authority, no asterisk, no #"
)
_BAD_HOST = bad_request("the Host header has to be a name or an address, with a port or without")
_NO_BODY = bad_request("a request with this method has no body here")
_TOO_LARGE = RequestRejection(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Content too large", "no body is taken at this address"
)


def head_too_large(max_bytes: int) -> RequestRejection:
    """The answer to a head of more than ``max_bytes``."""
    return RequestRejection(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "Request head too large",
        f"the head of a request may have {max_bytes} bytes",
    )


def fault(message: RawRequestMessage, payload: object) -> RequestRejection | None:
    """Why a parsed request is refused; None where it may go on.

    Absolute-form is refused although RFC 9112, 3.2.2 has servers accept it: it comes from those
    who take this for a forward proxy, and names a host beside Host.
    """
    if message.version not in (HttpVersion11, HttpVersion10):
        return _VERSION
    if message.method == "CONNECT" or message.path[:1] != "/" or "#" in message.path:
        return _TARGET
    if not is_host(message.headers.get("Host", "absent")):
        return _BAD_HOST
    if payload is EMPTY_PAYLOAD and "Transfer-Encoding" not in message.headers:
        return None
    if _takes_body(message):
        return None
    return _NO_BODY if message.method in _BODILESS else _TOO_LARGE


def _takes_body(message: RawRequestMessage) -> bool:
    """Whether a body may come at this address. It is for the handler to bound it."""
    path = message.path.partition("?")[0]
    return message.method not in _BODILESS and _TAKEN.fullmatch(path) is not None


def fault_in_reserve(message: RawRequestMessage, payload: object) -> RequestRejection | None:
    """As `fault`, where there is room only for those who ask how the server is."""
    refusal = fault(message, payload)
    if refusal is None and message.path.partition("?")[0] not in _PROBES:
        return OVER_LIMIT
    return refusal


@lru_cache(maxsize=1024)
def is_host(text: str) -> bool:
    """Whether a Host header names a host (RFC 9110, 7.2), with a port or without."""
    return len(text) <= _LONGEST_HOST and _HOST.fullmatch(text) is not None


def is_last(message: RawRequestMessage) -> bool:
    """Whether nothing is to be heard behind a request on its connection.

    An offer to go on in another protocol is passed over (RFC 9110, 7.8), but who made it may go on
    in that protocol; and nobody sends TRACE for a good reason.
    """
    return bool(message.upgrade) or message.method == "TRACE"


def head_bytes(message: RawRequestMessage) -> int:
    """About how many bytes the head of a request had."""
    lines = sum(len(name) + len(value) + _LINE_EXTRA for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + lines
