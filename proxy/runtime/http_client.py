"""Helpers for outgoing HTTP requests: sessions, bounded bodies, Retry-After."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp import web

_CHUNK_BYTES = 256 * 1024
_MAX_RETRY_AFTER_S = 86_400


def open_session(headers: Mapping[str, str] | None = None) -> aiohttp.ClientSession:
    """Return a session that keeps no cookies and ignores proxy variables. The caller closes it."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, headers=headers
    )


async def read_bounded(
    message: aiohttp.ClientResponse | web.BaseRequest, max_bytes: int
) -> bytes | None:
    """Return the whole body, or None as soon as it exceeds ``max_bytes``."""
    # Content-Length may be absent, so the bytes are counted as they arrive.
    body = bytearray()
    async for chunk in message.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            return None
    return bytes(body)


def retry_after_s(headers: Mapping[str, str]) -> int | None:
    """Return the seconds of Retry-After (RFC 9110, 10.2.3), at most one day, or None.

    ``headers`` must be case-insensitive.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        # Nine digits are enough for a day, and int() of a megabyte of digits is slow.
        return min(int(value[:9]), _MAX_RETRY_AFTER_S)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # HTTP dates are in GMT (RFC 9110, 5.6.7).
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max(0, round((aware - datetime.now(UTC)).total_seconds())), _MAX_RETRY_AFTER_S)
