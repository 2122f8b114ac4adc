"""Requests of the doctor: raw responses, why there is none, and the requests for an image."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict

from proxy.doctor.probe import ACCEPT, HttpProbe, ProbeResponse, allowed_types, request_image
from proxy.domain.errors import NoAnswer
from proxy.domain.media import Media
from tests.doctor.conftest import FakeProbe, response
from tests.support.ports import free_port
from tests.support.server import make_settings

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
    async with TestServer(app) as server:
        yield HttpProbe(str(server.make_url("/")), timeout_s=5)


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
    with pytest.raises(NoAnswer) as caught:
        await HttpProbe(base, timeout_s=timeout_s).request("/")
    return caught.value.detail


async def test_a_port_without_a_server_is_refused() -> None:
    assert await reason(f"http://127.0.0.1:{free_port()}") == "Connection refused"


async def test_a_server_that_sends_nothing_times_out() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with replying(silent) as port:
        found = await reason(f"http://127.0.0.1:{port}", timeout_s=0.2)
    assert found == "no answer in time"


async def test_a_server_without_tls_is_reported() -> None:
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async with replying(plain) as port:
        assert "SSL" in await reason(f"https://127.0.0.1:{port}")


async def test_a_response_that_is_not_http_is_reported() -> None:
    async def nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")

    async with replying(nonsense) as port:
        assert await reason(f"http://127.0.0.1:{port}")


async def test_an_invalid_address_is_reported() -> None:
    assert (await reason("nowhere")).startswith("InvalidU")


async def test_a_host_name_without_an_address_is_reported() -> None:
    found = await reason("http://nobody.invalid")
    assert any(word in found for word in ("not known", "name resolution", "No address"))


def answering(etags: Iterator[str]) -> FakeProbe:
    """Return a probe whose responses to a named format have these ETags, in order."""

    def answer(_method: str, target: str) -> ProbeResponse:
        return response(headers={"ETag": next(etags)} if "format=" in target else {})

    return FakeProbe(answer)


async def test_one_url_is_requested_for_all_clients() -> None:
    probe = answering(iter(['"a"'] * 4))
    responses = await request_image(probe, 7)
    negotiated = [target for _, target in probe.requests if "format=" not in target]
    assert len(negotiated) == len(ACCEPT)
    (url,) = set(negotiated)
    assert re.fullmatch(r"/serve/7\?w=64&doctor=[0-9a-f]{8}", url)
    assert list(responses.negotiated) == list(ACCEPT)


async def test_requests_are_repeated_if_a_final_replaces_the_draft() -> None:
    etags = iter(['"draft"', '"draft"', '"final"', '"final"', *['"final"'] * 4])
    responses = await request_image(answering(etags), 7)
    assert responses.named.header("ETag") == responses.part.header("ETag") == '"final"'


async def test_an_etag_that_never_repeats_is_given_up() -> None:
    with pytest.raises(NoAnswer, match="different ETag"):
        await request_image(answering(f'"{number}"' for number in count()), 7)


def test_a_transparent_image_is_never_sent_as_jpeg(photo: Media) -> None:
    encoders = make_settings(Path("unused")).encoders
    assert photo.facts is not None
    transparent = replace(photo, facts=replace(photo.facts, has_alpha=True))
    assert allowed_types(encoders, transparent)["anything"] == {"image/png"}


def test_an_image_without_facts_may_have_any_type_that_the_client_shows(photo: Media) -> None:
    encoders = make_settings(Path("unused")).encoders
    unknown = allowed_types(encoders, replace(photo, facts=None))
    assert unknown["anything"] == {"image/jpeg", "image/png", "image/gif"}
    assert "image/avif" not in unknown["safari"]
