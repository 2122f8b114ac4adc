"""WebSockets through a live nginx, as ``deploy/nginx`` forwards them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.front import nginx
from tests.support.server import Serve, Serving
from tests.support.uploads import USERS, signed

pytestmark = pytest.mark.slow

SESSION = "session-0123456789"
PROGRESS = f"/api/images_mvp/progress/{SESSION}"


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(users=USERS, server={"lame_duck_s": 0})


@pytest.fixture(params=["cache", "files"])
async def client(
    request: pytest.FixtureRequest, server: Serving, tmp_path: Path
) -> AsyncIterator[aiohttp.ClientSession]:
    port = server.client.port
    assert port is not None
    with nginx(tmp_path / "front", request.param, upstream=port) as front:
        async with aiohttp.ClientSession(front.base) as session:
            yield session


async def test_a_page_behind_nginx_converses_and_follows_its_upload(
    server: Serving, client: aiohttp.ClientSession
) -> None:
    # The server compares it with the Host header, so it must get the port.
    origin = str(client._base_url).rstrip("/")
    async with client.ws_connect("/ws/analysis", headers=signed(), origin=origin) as socket:
        await socket.send_json({"type": "ping"})
        assert await socket.receive_json(timeout=20) == {"type": "pong"}
    async with client.ws_connect(PROGRESS, origin=origin) as socket:
        assert (await socket.receive_json(timeout=20))["type"] == "connected"
        assert server.services.metadata is not None
        with server.services.metadata.progress.reporting(SESSION) as report:
            report(10, "received")
        assert (await socket.receive_json(timeout=20))["percentage"] == 10


async def test_errors_and_the_code_of_a_drain_reach_the_client(
    server: Serving, client: aiohttp.ClientSession
) -> None:
    for path, headers, status in (
        ("/ws/analysis", {}, 401),
        ("/ws/analysis", {**signed(), "Origin": "https://elsewhere.example"}, 403),
        ("/api/images_mvp/progress/short", {}, 400),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await client.ws_connect(path, headers=headers)
        assert raised.value.status == status
    async with client.get("/ws/analysis", headers=signed()) as answer:
        assert answer.status == 426
    async with client.get(PROGRESS) as answer:
        assert (answer.status, (await answer.json())["type"]) == (200, "connected")
    async with client.ws_connect(PROGRESS) as socket:
        await socket.receive_json(timeout=20)
        server.surface.runner.begin_drain(asyncio.Event())
        message = await socket.receive(timeout=20)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
