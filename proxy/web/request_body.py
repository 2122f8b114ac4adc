"""Bodies of requests: told to come, waited for so long, and counted as they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError

from proxy.domain.errors import BodyTooLarge, BodyTooSlow, RequestError, UnsupportedBody

_BROKEN = "the body ended before it was whole, or is malformed"

_T = TypeVar("_T")


def refuse_packed(request: web.BaseRequest) -> None:
    """Return for a body that comes as it is.

    Raises:
        UnsupportedBody: it is compressed.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedBody("a body has to come as it is, without Content-Encoding")


def call_for(request: web.BaseRequest) -> None:
    """Have the body sent, where its sender waits to be told to (RFC 9110, 10.1.1)."""
    expects = any(
        name.lower() == b"expect" and value.strip().lower() == b"100-continue"
        for name, value in request.raw_headers
    )
    waits = expects and request.version >= HttpVersion11 and not request.content.total_bytes
    if waits and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def patiently(reading: Awaitable[_T], stall_s: float) -> _T:
    """What is read of a body, waited for ``stall_s``.

    Raises:
        BodyTooSlow: nothing came in that time.
        RequestError: the client has left, or what it sends is malformed.
    """
    try:
        async with asyncio.timeout(stall_s):
            return await reading
    except TimeoutError as error:
        raise BodyTooSlow(f"nothing of the body came for {stall_s:g} s") from error
    except (OSError, RequestPayloadError) as error:
        raise RequestError(_BROKEN) from error


def require_sound(request: web.BaseRequest) -> None:
    """Return for a body whose end was its own.

    Raises:
        RequestError: it is malformed where it seemed to end.
    """
    if request.content.exception() is not None:
        raise RequestError(_BROKEN)


def require_json(request: web.BaseRequest) -> None:
    """Return for a body that says of itself that it is JSON.

    Raises:
        UnsupportedBody: it is something else, or does not say.
    """
    if request.content_type != "application/json":
        raise UnsupportedBody("the body has to be JSON, with Content-Type: application/json")


async def read_json(request: web.BaseRequest, *, max_bytes: int, stall_s: float) -> dict[str, Any]:
    """The JSON object that is the body; ``stall_s`` is for all of it.

    Raises:
        RequestError: it is none; the kind says why.
    """
    refuse_packed(request)
    too_large = BodyTooLarge(f"the body may have {max_bytes} bytes")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    call_for(request)
    body = bytearray()

    async def read() -> None:
        while piece := await request.content.readany():
            body.extend(piece)
            if len(body) > max_bytes:
                raise too_large

    await patiently(read(), stall_s)
    require_sound(request)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError("the body has to be JSON") from error
    if not isinstance(value, dict):
        raise RequestError("the body has to be a JSON object")
    return value
