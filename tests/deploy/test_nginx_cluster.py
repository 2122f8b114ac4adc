"""Consistent hashing through a live nginx, in front of three upstreams that say who they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.deploy.front import Change, nginx
from tests.deploy.programs import DEPLOY
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

IDS = range(1, 302)
"""A number that three does not divide: otherwise turns would place each image as hashing does."""
PORTS = (8081, 8082, 8083)


class Node:
    """A server that answers everything with its number; it may be stopped and started again."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.received = 0
        self.fault = ""
        """"hangs" or "closes": what it does instead of an answer, after it has read the request."""
        self._port: int | None = None
        self._server: TestServer | None = None

    async def start(self) -> int:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app, port=self._port)
        await self._server.start_server()
        assert self._server.port is not None
        self._port = self._server.port
        return self._port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.received += 1
        if "Upgrade" in request.headers:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str(str(self._number))
            await socket.close()
            return socket
        if self.fault == "hangs":
            await asyncio.Event().wait()
        if self.fault == "closes":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(text=str(self._number))


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    started = [Node(number) for number in range(len(PORTS))]
    async with AsyncExitStack() as stack:
        for one in started:
            stack.push_async_callback(one.stop)
        yield started


@pytest.fixture
async def client(nodes: list[Node], tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with in_front(nodes, tmp_path) as session:
        yield session


@asynccontextmanager
async def in_front(
    nodes: list[Node], folder: Path, *, read_timeout_s: int = 20, changes: Iterable[Change] = ()
) -> AsyncIterator[aiohttp.ClientSession]:
    """Start nginx with ``cluster.conf`` as its ``upstream.conf``; yield a client of it."""
    cluster = (DEPLOY / "nginx" / "cluster.conf").read_text()
    for example, node in zip(PORTS, nodes, strict=True):
        cluster = cluster.replace(f"127.0.0.1:{example}", f"127.0.0.1:{await node.start()}")
    cluster = cluster.replace("fail_timeout=3s", "fail_timeout=1s")
    unused = 9
    single = (DEPLOY / "nginx" / "upstream.conf").read_text()
    single = single.replace("127.0.0.1:8080", f"127.0.0.1:{unused}")
    changes = [
        *changes,
        ("upstream.conf", single, cluster),
        ("read_timeout.conf", "proxy_read_timeout 40s;", f"proxy_read_timeout {read_timeout_s}s;"),
    ]
    with nginx(folder / "front", "files", upstream=unused, changes=changes) as front:
        async with aiohttp.ClientSession(front.base) as session:
            yield session


async def node_of(client: aiohttp.ClientSession, path: str) -> int:
    async with client.get(path) as answer:
        assert answer.status == 200
        return int(await answer.text())


async def placed(client: aiohttp.ClientSession, form: str = "/serve/{}") -> list[int]:
    return [await node_of(client, form.format(one)) for one in IDS]


async def test_all_forms_of_an_image_are_on_one_node_and_images_on_all(
    client: aiohttp.ClientSession,
) -> None:
    first = await placed(client)
    for form in ("/serve/{}.avif?w=640", "/api/images/{}?size=thumbnail", "/info/{}"):
        assert await placed(client, form) == first
    assert all(count > len(IDS) / 6 for count in Counter(first).values())
    assert len(Counter(first)) == len(PORTS)


async def test_what_belongs_to_no_image_goes_to_any_node(client: aiohttp.ClientSession) -> None:
    assert len({await node_of(client, "/users/me") for _ in range(60)}) == len(PORTS)


async def test_an_upload_and_the_socket_of_its_progress_reach_the_same_node(
    nodes: list[Node], tmp_path: Path
) -> None:
    clients = [f"203.0.113.{number}" for number in range(30)]
    # As behind a proxy: otherwise all clients here have the same address.
    trusted = "server_tokens off; set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP;"
    changes = [("files.conf", "server_tokens off;", trusted)]
    used = set()
    async with in_front(nodes, tmp_path, changes=changes) as session:
        for client in clients:
            headers = {"X-Real-IP": client}
            path = "/api/images_mvp/extract"
            async with session.post(path, data=b"upload", headers=headers) as answer:
                upload = await answer.text()
            path = "/api/images_mvp/progress/1"
            async with session.ws_connect(path, headers=headers) as socket:
                assert await socket.receive_str() == upload
            used.add(upload)
    assert len(used) == len(PORTS)


async def test_only_the_images_of_a_dead_node_move_and_they_come_back(
    client: aiohttp.ClientSession, nodes: list[Node]
) -> None:
    before = await placed(client)
    await nodes[1].stop()
    during = await placed(client)
    moved = {now for was, now in zip(before, during, strict=True) if was == 1}
    assert moved == {0, 2}, "its images are spread over the others"
    assert [was for was, now in zip(before, during, strict=True) if was != now] == [
        1 for was in before if was == 1
    ]
    await nodes[1].start()

    async def back() -> bool:
        await asyncio.sleep(0)
        return await placed(client) == before

    await eventually(back, interval_s=0.5)


async def test_an_image_of_a_node_that_hangs_is_served_by_another(
    nodes: list[Node], tmp_path: Path
) -> None:
    async with in_front(nodes, tmp_path, read_timeout_s=1) as client:
        own = await node_of(client, "/serve/1")
        nodes[own].fault = "hangs"
        assert await node_of(client, "/serve/1") != own


async def test_an_upload_goes_to_another_node_if_one_cannot_be_reached(
    client: aiohttp.ClientSession, nodes: list[Node]
) -> None:
    await nodes[1].stop()
    for _ in range(30):
        async with client.patch("/users/me", data=b"upload") as answer:
            assert answer.status == 200


HIDDEN = "location /api/media/ { return 404; }\n"


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("192.0.2.10", 403)])
async def test_the_worker_of_another_machine_reaches_the_queue_of_uploads_and_nobody_else(
    nodes: list[Node], tmp_path: Path, address: str, status: int
) -> None:
    """With the commented lines of private.conf in place of the line before them."""
    text = (DEPLOY / "nginx" / "private.conf").read_text()
    _, _, after = text.partition(HIDDEN)
    comment, begin, lines = after.partition("#location /api/media/ {\n")
    lines, end, _ = lines.partition("#}\n")
    commented = begin + lines + end
    admitted = commented.replace("#", "").replace("allow 192.0.2.10;", f"allow {address};")
    changes = [
        ("private.conf", comment + commented, ""),
        ("private.conf", HIDDEN, admitted),
    ]
    async with in_front(nodes, tmp_path, changes=changes) as client:
        async with client.get("/api/media/pending/all") as answer:
            assert answer.status == status
        async with client.post("/api/media/complete/1", data=b"{}") as answer:
            assert answer.status == status
        # The signed URLs of originals are for everybody.
        async with client.get("/api/media/1/original?sig=a&exp=1&kid=1") as answer:
            assert answer.status == 200


async def test_an_upload_that_a_node_has_received_is_never_repeated(
    client: aiohttp.ClientSession, nodes: list[Node]
) -> None:
    for node in nodes:
        node.fault = "closes"
    async with client.patch("/users/me", data=b"upload") as answer:
        assert answer.status == 502
    assert sum(node.received for node in nodes) == 1
