"""Input of requests: ids, and bodies with a size limit, a timeout and ``Expect: 100-continue``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError
from multidict import MultiMapping, istr

from proxy.domain.errors import (
    BadParameter,
    BodyTooLarge,
    BodyTooSlow,
    PendingNotFound,
    RequestError,
    UnsupportedBody,
)
from proxy.domain.media import MAX_MEDIA_ID
from proxy.runtime.http_client import read_bounded

DIGITS = 19
# Without leading zeros: an id has one spelling, so an image has one address for caches and purges.
ID_PATTERN = f"(?:0|[1-9][0-9]{{0,{DIGITS - 1}}})"
ID = re.compile(ID_PATTERN, re.ASCII)
_EXACT = 2**53
"""Up to this value a JSON number with a fraction is exact (RFC 8259, 6)."""
_BROKEN = "the body ended early, or is malformed; send it again"

_T = TypeVar("_T")


# Multidict look-ups by these constants take a third of the time: their hashes are stored.
_SAVE_DATA, _ECT = istr("Save-Data"), istr("ECT")
_SAVED = frozenset({"on", "?1"})
"""Values of Save-Data: as Chromium sends it, and as a boolean of RFC 9651."""
_SLOW = frozenset({"slow-2g", "2g", "3g"})


def as_utf8(text: str) -> str:
    """Return the text of a header with U+FFFD for bytes that are no UTF-8.

    aiohttp decodes them to surrogates, which JSON, URLs, traces and other requests cannot contain.
    """
    return text.encode(errors="surrogateescape").decode(errors="replace")


def wants_less(headers: MultiMapping[str]) -> bool:
    """Return whether client hints request fewer bytes: Save-Data is on, or ECT is slow."""
    saved, ect = headers.get(_SAVE_DATA), headers.get(_ECT)
    # Save-Data may have parameters, which have no meaning yet.
    if saved is not None and saved.partition(";")[0].strip().lower() in _SAVED:
        return True
    return ect is not None and ect.strip().lower() in _SLOW


def parse_id(parameter: str, text: str) -> int:
    """Return the id, which may exceed `MAX_MEDIA_ID`; raise BadParameter if it is not a number."""
    if not ID.fullmatch(text):
        raise BadParameter(parameter, f"1 to {DIGITS} digits without leading zeros")
    return int(text)


def path_id(request: web.Request, name: str = "id") -> int:
    """Return the id in the URL's path; raise BadParameter if it is not a number."""
    return parse_id(name, request.match_info[name])


def upload_id(request: web.Request) -> int:
    """Return the id of an upload in the URL's path; raise PendingNotFound if none can have it."""
    number = path_id(request)
    # No row can have an id above MAX_MEDIA_ID, and the database driver rejects it.
    if number > MAX_MEDIA_ID:
        raise PendingNotFound("there is no upload with this id")
    return number


def whole_number(value: object) -> int | None:
    """Return a JSON value as a whole number, or None; 7.0 counts as 7, a boolean does not."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    # A boolean is an int for Python, but not for JSON.
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def accept_body(request: web.BaseRequest, max_bytes: int) -> None:
    """Let the client send the body; one that waits gets "100 Continue" (RFC 9110, 10.1.1).

    Raises:
        UnsupportedBody: it is compressed.
        BodyTooLarge: its Content-Length exceeds the limit. It need not be sent at all.
    """
    # A compressed body of a few kilobytes could expand past any limit.
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedBody(
            "compressed bodies are not accepted; send it without Content-Encoding"
        )
    if (request.content_length or 0) > max_bytes:
        raise BodyTooLarge(f"the body may have at most {max_bytes} bytes")
    # The connection removes Expect from `headers`: aiohttp would accept every body at once.
    expects = any(
        name.lower() == b"expect" and value.strip().lower() == b"100-continue"
        for name, value in request.raw_headers
    )
    # If bytes of the body are here already, the client did not wait.
    waits = expects and request.version >= HttpVersion11 and not request.content.total_bytes
    if waits and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def read_with_timeout(reading: Awaitable[_T], stall_s: float) -> _T:
    """Return the result of a read from the body.

    Raises:
        BodyTooSlow: it took longer than ``stall_s``.
        RequestError: the client disconnected, or the body is malformed.
    """
    try:
        async with asyncio.timeout(stall_s):
            return await reading
    except TimeoutError as error:
        raise BodyTooSlow(f"no data of the body arrived for {stall_s:g} s") from error
    except (OSError, RequestPayloadError) as error:
        raise RequestError(_BROKEN) from error


def require_complete(request: web.BaseRequest) -> None:
    """Raise RequestError if the body's end was not its real end but a malformed chunk."""
    if request.content.exception() is not None:
        raise RequestError(_BROKEN)


def require_json(request: web.BaseRequest) -> None:
    """Raise UnsupportedBody unless Content-Type says that the body is JSON."""
    if request.content_type != "application/json":
        raise UnsupportedBody("the body must be JSON; send Content-Type: application/json")


async def read_json(request: web.BaseRequest, *, max_bytes: int, stall_s: float) -> dict[str, Any]:
    """Return the JSON object in the body; all of it must arrive within ``stall_s``.

    Raises:
        RequestError: it is too large, too slow, compressed, or not a JSON object.
    """
    accept_body(request, max_bytes)
    # Without Content-Length, the size is known only while the body arrives.
    body = await read_with_timeout(read_bounded(request, max_bytes), stall_s)
    if body is None:
        raise BodyTooLarge(f"the body may have at most {max_bytes} bytes")
    # A malformed chunk also ends the stream: what arrived before it is not the whole body.
    require_complete(request)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError("the body is not valid JSON") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    return value
