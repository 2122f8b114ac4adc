"""The visitor over real sockets: answers as they are on the wire, and why there is none."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.doctor.http_client.client import AiohttpProbe
from proxy.domain.errors import NoAnswer
from tests.benchmarks.servers import free_port

PACKED = gzip.compress(b"a picture")


async def _packed(request: web.Request) -> web.Response:
    assert "br" in request.headers["Accept-Encoding"]
    return web.Response(body=PACKED, headers={"Content-Encoding": "gzip", "Cache-Tag": "a"})


async def _moved(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


@pytest.fixture
async def visitor() -> AsyncIterator[AiohttpProbe]:
    app = web.Application()
    app.router.add_get("/packed", _packed)
    app.router.add_get("/moved", _moved)
    async with (
        TestServer(app) as server,
        AiohttpProbe(str(server.make_url("/")), timeout_s=5) as one,
    ):
        yield one


async def test_nothing_is_unpacked_and_names_have_any_case(visitor: AiohttpProbe) -> None:
    answer = await visitor.ask("/packed")
    assert (answer.status, answer.body) == (200, PACKED)
    assert answer.told("content-ENCODING") == "gzip"
    assert answer.told("ETag") == ""


async def test_no_redirect_is_followed(visitor: AiohttpProbe) -> None:
    answer = await visitor.ask("/moved")
    assert (answer.status, answer.told("Location")) == (302, "/elsewhere")


async def test_a_head_has_no_body(visitor: AiohttpProbe) -> None:
    answer = await visitor.ask("/packed", method="HEAD")
    assert (answer.body, answer.told("Content-Length")) == (b"", str(len(PACKED)))


Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def speaking(reply: Reply) -> AsyncIterator[int]:
    """A server of bare bytes, and its port."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reply(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("status", [100, 413, 401])
async def test_a_body_is_announced_and_none_is_sent(status: int) -> None:
    heads: list[bytes] = []
    rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 {status} So\r\n\r\n".encode())
        rest.set_result(await reader.read())

    async with speaking(reply) as port:
        base = f"http://127.0.0.1:{port}/below"
        async with AiohttpProbe(base, timeout_s=5) as visitor:
            assert await visitor.announce("/users/me", method="PATCH", byte_size=77) == status
        assert await rest == b""
    head = heads[0].decode()
    assert head.startswith("PATCH /below/users/me HTTP/1.1\r\n")
    for line in ("Content-Length: 77", "Expect: 100-continue", f"Host: 127.0.0.1:{port}"):
        assert f"\r\n{line}\r\n" in head


async def _told_by_both(base: str, *, timeout_s: float = 5) -> set[str]:
    async with AiohttpProbe(base, timeout_s=timeout_s) as visitor:
        with pytest.raises(NoAnswer) as asked:
            await visitor.ask("/")
        with pytest.raises(NoAnswer) as announced:
            await visitor.announce("/", method="PATCH", byte_size=1)
    return {asked.value.detail, announced.value.detail}


async def test_a_port_where_nobody_listens_is_told() -> None:
    for told in await _told_by_both(f"http://127.0.0.1:{free_port()}"):
        assert "refused" in told


async def test_who_says_nothing_is_not_waited_for() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with speaking(silent) as port:
        told = await _told_by_both(f"http://127.0.0.1:{port}", timeout_s=0.2)
    assert told == {"no answer within 0.2 s"}


async def test_what_speaks_no_tls_is_told() -> None:
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async with speaking(plain) as port:
        for told in await _told_by_both(f"https://127.0.0.1:{port}"):
            assert told.startswith("TLS: "), told


async def test_nonsense_is_no_answer() -> None:
    async def nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")

    async with speaking(nonsense) as port:
        assert all(await _told_by_both(f"http://127.0.0.1:{port}"))


async def test_an_address_that_is_none_is_told() -> None:
    async with AiohttpProbe("nowhere", timeout_s=1) as visitor:
        with pytest.raises(NoAnswer, match="is no address"):
            await visitor.ask("/")


async def test_a_name_without_an_address_is_told() -> None:
    assert await _told_by_both("http://nobody.invalid") == {"its name has no address"}
