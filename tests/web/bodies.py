"""Requests with a body, for tests without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from unittest import mock

from aiohttp import HttpVersion, HttpVersion11, StreamReader, web
from aiohttp.test_utils import make_mocked_request


def body_request(
    chunks: Iterable[bytes] = (),
    *,
    complete: bool = True,
    headers: dict[str, str] | None = None,
    version: HttpVersion = HttpVersion11,
) -> web.Request:
    """Return a request whose body consists of the chunks; more may be fed to its ``content``.

    Unless it is ``complete``, the client has not sent the body's end.
    """
    loop = asyncio.get_running_loop()
    protocol = mock.Mock(_reading_paused=False, connected=True)
    content = StreamReader(protocol, limit=2**16, loop=loop)
    for chunk in chunks:
        content.feed_data(chunk)
    if complete:
        content.feed_eof()
    return make_mocked_request(
        "POST", "/", headers=headers, version=version, payload=content, transport=mock.Mock()
    )
