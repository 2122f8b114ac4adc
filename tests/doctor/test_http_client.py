"""Requests of the doctor: responses as they are on the wire, and why there is none."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from proxy.doctor.http_client import HttpProbe, ProbeResponse
from proxy.domain.errors import NoAnswer
from tests.benchmarks.servers import free_port
from tests.doctor.conftest import response

COMPRESSED = gzip.compress(b"an image")


async def _compressed(request: web.Request) -> web.Response:
    assert "br" in request.headers["Accept-Encoding"]
    return web.Response(body=COMPRESSED, headers={"Content-Encoding": "gzip", "Cache-Tag": "a"})


async def _moved(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


@pytest.fixture
async def probe() -> AsyncIterator[HttpProbe]:
    app = web.Application()
    app.router.add_get("/compressed", _compressed)
    app.router.add_get("/moved", _moved)
    async with (
        TestServer(app) as server,
        HttpProbe(str(server.make_url("/")), timeout_s=5) as one,
    ):
        yield one


async def test_a_body_is_not_decompressed(probe: HttpProbe) -> None:
    answer = await probe.request("/compressed")
    assert (answer.status, answer.body) == (200, COMPRESSED)
    assert answer.header("content-ENCODING") == "gzip"
    assert answer.header("ETag") == ""


async def test_a_redirect_is_not_followed(probe: HttpProbe) -> None:
    answer = await probe.request("/moved")
    assert (answer.status, answer.header("Location")) == (302, "/elsewhere")


async def test_a_head_response_has_no_body(probe: HttpProbe) -> None:
    answer = await probe.request("/compressed", method="HEAD")
    assert (answer.body, answer.header("Content-Length")) == (b"", str(len(COMPRESSED)))


def test_the_lines_of_a_header_are_joined() -> None:
    headers = CIMultiDict([("Vary", "Accept"), ("vary", "Origin")])
    assert ProbeResponse(200, headers, b"", 0.0).header("Vary") == "Accept, Origin"


def test_a_body_that_is_not_a_json_object_is_read_as_an_empty_one() -> None:
    assert response(b'{"status": "alive"}').json() == {"status": "alive"}
    assert response(b"[1]").json() == response(b"<html>").json() == {}


Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def replying(reply: Reply) -> AsyncIterator[int]:
    """Run a server of raw bytes; yields its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reply(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def reason(base: str, *, timeout_s: float = 5) -> str:
    """Return why a request is not answered."""
    async with HttpProbe(base, timeout_s=timeout_s) as probe:
        with pytest.raises(NoAnswer) as caught:
            await probe.request("/")
    return caught.value.detail


async def test_a_port_without_a_server_is_refused() -> None:
    assert "refused" in await reason(f"http://127.0.0.1:{free_port()}")


async def test_a_server_that_sends_nothing_times_out() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with replying(silent) as port:
        found = await reason(f"http://127.0.0.1:{port}", timeout_s=0.2)
    assert found == "no answer within 0.2 s"


async def test_a_server_without_tls_is_reported() -> None:
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async with replying(plain) as port:
        assert (await reason(f"https://127.0.0.1:{port}")).startswith("TLS: ")


async def test_a_response_that_is_not_http_is_reported() -> None:
    async def nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")

    async with replying(nonsense) as port:
        assert await reason(f"http://127.0.0.1:{port}")


async def test_an_invalid_address_is_reported() -> None:
    assert await reason("nowhere") == "the address is not a URL"


async def test_a_host_name_without_an_address_is_reported() -> None:
    assert await reason("http://nobody.invalid") == "the host name has no address"


async def test_a_closed_probe_is_reported() -> None:
    with pytest.raises(NoAnswer, match="closed"):
        await HttpProbe("http://127.0.0.1:1", timeout_s=1).request("/")
