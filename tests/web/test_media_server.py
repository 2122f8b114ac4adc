"""The client of the media server: what it passes on, and what becomes an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.domain.errors import (
    MediaNotFound,
    MediaServerUnavailable,
    RangeNotSatisfiable,
    SmartserveError,
    SourceTimeout,
)
from proxy.web.media_server import MediaServer
from tests.support.ports import free_port

Answer = Callable[[web.Request], web.StreamResponse]


class Upstream:
    """A server whose answer is set by the test."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _: web.Response()
        self.stalled = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.stalled:
            await asyncio.Event().wait()
        return self.answer(request)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[MediaServer]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    async with TestServer(app) as server:
        base = str(server.make_url("")).rstrip("/")
        client = MediaServer(base, key="k" * 16, timeout_s=0.3, max_bytes=100_000)
        yield client
        await client.aclose()


async def read(client: MediaServer) -> bytes:
    response = await client.stream("GET", "/serve/1", {})
    try:
        assert response.chunks is not None
        return b"".join([chunk async for chunk in response.chunks])
    finally:
        response.release()


async def test_only_headers_that_describe_the_image_are_passed_on(
    client: MediaServer, upstream: Upstream
) -> None:
    headers = {
        "Content-Type": "image/webp",
        "ETag": '"a"',
        "Set-Cookie": "session=1",
        "Server": "x",
        "Content-Disposition": 'inline; filename="größe.webp"',
        "X-Powered-By": "Express",
    }
    upstream.answer = lambda _: web.Response(body=b"RIFF", headers=headers)
    response = await client.stream("GET", "/serve/1", {})
    response.release()
    assert dict(response.headers) == {"Content-Type": "image/webp", "ETag": '"a"'}


async def test_an_image_above_the_limit_is_not_read_to_its_end(
    client: MediaServer, upstream: Upstream
) -> None:
    kind = {"Content-Type": "image/png"}
    upstream.answer = lambda _: web.Response(body=bytes(100_000), headers=kind)
    assert len(await read(client)) == 100_000
    upstream.answer = lambda _: web.Response(body=bytes(100_001), headers=kind)
    with pytest.raises(MediaServerUnavailable, match="too large"):
        await read(client)


async def test_a_server_that_is_silent_or_away_is_an_error(
    client: MediaServer, upstream: Upstream
) -> None:
    upstream.stalled = True
    with pytest.raises(SourceTimeout):
        await read(client)
    away = MediaServer(f"http://127.0.0.1:{free_port()}", key="", timeout_s=1, max_bytes=1)
    with pytest.raises(MediaServerUnavailable) as caught:
        await read(away)
    # The address is for operators only.
    assert "127.0.0.1" not in caught.value.detail
    assert "127.0.0.1" in caught.value.reason
    await away.aclose()


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (410, {}, MediaNotFound("the media server has no such image any more")),
        (416, {"Content-Range": "bytes */77"}, RangeNotSatisfiable(77)),
        (416, {}, RangeNotSatisfiable(0)),
        (418, {}, MediaServerUnavailable("the media server answered 418")),
    ],
)
async def test_a_status_becomes_the_error_of_the_same_meaning(
    client: MediaServer,
    upstream: Upstream,
    status: int,
    headers: dict[str, str],
    error: SmartserveError,
) -> None:
    upstream.answer = lambda _: web.Response(status=status, headers=headers)
    with pytest.raises(type(error)) as caught:
        await read(client)
    assert caught.value.detail == error.detail


@pytest.mark.parametrize("host", ["169.254.169.254", "168.63.129.16", "[fd00:ec2::254]"])
async def test_the_metadata_service_of_a_cloud_is_no_media_server(host: str) -> None:
    client = MediaServer(f"http://{host}", key="k" * 16, timeout_s=20, max_bytes=100_000)
    try:
        with pytest.raises(MediaServerUnavailable) as caught:
            await client.check()
    finally:
        await client.aclose()
    # Before a packet is sent: nothing in a test may depend on the network.
    assert "is not allowed" in repr(caught.value.__cause__)
