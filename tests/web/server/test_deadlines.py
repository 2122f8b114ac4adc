"""Deadlines of a connection: for a head, for the next request, for taking an answer; and the cap.

The deadlines are short here; that they are 10, 75 and 30 seconds otherwise is a test of its own.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.settings import ServerSettings
from tests.support.server import Library, Serve, Serving
from tests.support.waiting import pause_between_pieces
from tests.web.wire import Told, answers, until

pytestmark = pytest.mark.slow  # real seconds; test_connection.py has the rules without a wait

PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def connected(
    server: Serving,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that takes little before it is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)  # noqa: FBT003 - the socket's own way
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (server.client.host, server.client.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=2048)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until_closed(reader: asyncio.StreamReader) -> tuple[list[Told], float]:
    """What comes until the server closes, and after how many seconds it does."""
    began = time.monotonic()
    async with asyncio.timeout(15):
        raw = await reader.read()
    return answers(raw), time.monotonic() - began


def closed(server: Serving, reason: str) -> float:
    return server.metric("smartserve_connections_closed_total", reason=reason)


def test_the_defaults_are_those_of_the_hardening_table() -> None:
    settings = ServerSettings()
    assert settings.header_timeout_s == 10
    assert settings.keepalive_s == 75
    assert settings.write_timeout_s == 30
    assert settings.max_connections == 10_000


async def test_who_never_says_a_word_is_closed_without_one(serve: Serve) -> None:
    server = await serve(server={"header_timeout_s": 0.4})
    began = time.monotonic()
    async with connected(server) as (reader, _):
        assert server.metric("smartserve_connections") == 1
        found, _ = await until_closed(reader)
    assert found == []
    assert time.monotonic() - began >= 0.4
    await until(lambda: closed(server, "header_timeout") == 1)
    assert server.metric("smartserve_connections") == 0


@pytest.mark.parametrize("before", [0, 1])
async def test_a_head_that_does_not_end_is_a_408(serve: Serve, before: int) -> None:
    """Its time runs on while bytes come; on a kept connection it begins with its first byte."""
    server = await serve(server={"header_timeout_s": 0.6})
    async with connected(server) as (reader, writer):
        for _ in range(before):
            writer.write(PROBE)
            await reader.readuntil(b"}")
            await pause_between_pieces(1.2)
        began = time.monotonic()
        task = asyncio.create_task(until_closed(reader))
        sent = 0
        while not task.done():
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: yyyyyyyyyyyyyy"[sent : sent + 1])
            sent += 1
            await pause_between_pieces(0.1)
        (answer,), _ = await task
    assert time.monotonic() - began >= 0.6
    assert sent < 40
    assert answer.status == json.loads(answer.body)["status"] == 408
    assert answer.headers["connection"] == "close"
    await until(lambda: closed(server, "header_timeout") == 1)
    assert server.metric("smartserve_requests_total", route="malformed", status="408") == 1


async def test_a_head_behind_a_whole_request_has_its_deadline_too(
    serve: Serve, library: Library
) -> None:
    """Hot or not, and ending in a line end or not."""
    server = await serve(server={"header_timeout_s": 0.4})
    target = f"/serve/{library.ids['photo']}?size=thumbnail"
    for _ in range(3):
        await (await server.client.get(target, headers={"Accept": ""})).read()
    whole = b"GET " + target.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    for part in (b"G", whole[:-2], whole[:-1]):
        async with connected(server) as (reader, writer):
            writer.write(whole + part)
            found, _ = await until_closed(reader)
        assert [one.status for one in found] == [200, 408]


async def test_who_asks_for_nothing_more_is_closed_without_a_word(
    serve: Serve, library: Library
) -> None:
    """After a hot answer as after any other; the head's deadline, shorter, does not count there."""
    server = await serve(server={"keepalive_s": 0.8, "header_timeout_s": 0.2})
    target = f"/serve/{library.ids['photo']}?size=thumbnail"
    for _ in range(3):
        await (await server.client.get(target, headers={"Accept": ""})).read()
    hot = b"GET " + target.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    for sent in (PROBE, hot):
        async with connected(server) as (reader, writer):
            writer.write(sent)
            found, seconds = await until_closed(reader)
        assert [one.status for one in found] == [200]
        assert seconds >= 0.8
    await until(lambda: closed(server, "idle_timeout") >= 2)
    assert closed(server, "header_timeout") == 0


async def test_a_silent_connection_is_idle_where_heads_have_no_deadline(serve: Serve) -> None:
    server = await serve(server={"keepalive_s": 0.5, "header_timeout_s": 0})
    async with connected(server) as (reader, _):
        found, seconds = await until_closed(reader)
    assert (found, seconds >= 0.5) == ([], True)
    await until(lambda: closed(server, "idle_timeout") == 1)


async def test_while_an_answer_is_made_the_client_may_wait(serve: Serve, library: Library) -> None:
    """A render that takes longer than all deadlines is no fault of the client's."""
    limits = {"keepalive_s": 0.05, "header_timeout_s": 0.05}
    server = await serve(server=limits)
    target = f"/serve/{library.ids['large']}?size=zoom&format=webp"
    async with connected(server) as (reader, writer):
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        raw = await asyncio.wait_for(reader.read(), 30)
    (answer,) = answers(raw)
    assert (answer.status, answer.headers["content-type"]) == (200, "image/webp")


async def warmed(server: Serving, target: str) -> None:
    for _ in range(3):
        await (await server.client.get(target, headers={"Accept": ""})).read()


@pytest.mark.parametrize("tail", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(
    ("memory", "query", "times"),
    [
        (64 * 1024 * 1024, "size=zoom&format=png", 1),  # one large body, in pieces of our own
        (0, "size=zoom&format=png", 1),  # from its file
        (64 * 1024 * 1024, "size=thumbnail", 2000),  # hot answers
    ],
    ids=["whole", "pieces", "hot"],
)
async def test_who_takes_nothing_of_an_answer_is_cut(
    serve: Serve, library: Library, memory: int, query: str, times: int, tail: bytes
) -> None:
    """Whoever writes the answer, also the last one of a connection.

    It is longer than what the kernel takes in at once; of that the kernel's own deadline is.
    """
    server = await serve(
        server={"write_timeout_s": 0.5},
        renditions={"memory_max_bytes": memory, "memory_max_item_bytes": memory},
    )
    target = f"/serve/{library.ids['large']}?{query}"
    await warmed(server, target)
    await server.services.serving.renderer.drain()
    sent = f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode() + b"\r\n"
    last = sent[:-2] + tail + b"\r\n"
    before = closed(server, "write_timeout")
    async with connected(server) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(sent * (times - 1) + last)
        await until(lambda: closed(server, "write_timeout") == before + 1)
    # The request ends when its response notices that the connection is closed.
    await until(lambda: server.surface.runner.pipeline._active == 0)


async def test_who_takes_it_slowly_gets_all_of_it(serve: Serve, library: Library) -> None:
    """As long as the client takes something within the deadline, it is not cut."""
    server = await serve(server={"write_timeout_s": 4, "keepalive_s": 0.4})
    target = f"/serve/{library.ids['large']}?size=zoom&format=png"
    await warmed(server, target)
    body = await (await server.client.get(target)).read()
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with connected(server) as (reader, writer):
        writer.write(head.encode())
        taken = b""
        while len(taken) < 1_000_000 and (piece := await reader.read(20_000)):
            taken += piece
            await pause_between_pieces(0.02)
        taken += await asyncio.wait_for(reader.read(), 10)
    assert taken.endswith(body)
    assert closed(server, "write_timeout") == 0


async def test_a_refused_body_that_goes_on_and_on_is_cut(serve: Serve) -> None:
    """What still comes is thrown away for two seconds, however long it is to be."""
    server = await serve()
    async with connected(server) as (reader, writer):
        writer.write(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        (answer,), _ = await until_closed(reader)
        assert answer.status == 413
        began = time.monotonic()
        while server.metric("smartserve_connections"):
            writer.write(b"x")
            await pause_between_pieces(0.05)
    assert time.monotonic() - began < 10
    assert closed(server, "refused") == 1


async def test_above_the_cap_only_probes_are_answered(serve: Serve) -> None:
    server = await serve(server={"max_connections": 16})
    async with asyncio.timeout(20), _many(server, 16):
        statuses = []
        for path in (b"/healthz", b"/readyz", b"/metrics", b"/serve/1"):
            async with connected(server) as (reader, writer):
                writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n" + PROBE)
                (answer,), _ = await until_closed(reader)
            statuses.append(answer.status)
            await until(lambda: server.metric("smartserve_connections") == 16)
        assert statuses == [200, 200, 200, 503]
        assert answer.headers["retry-after"] == "5"
        assert json.loads(answer.body)["title"] == "Too many connections"
        # Two more places there are; who comes then has that of the one who came first.
        async with _many(server, 2), connected(server) as (reader, writer):
            writer.write(PROBE)
            (answer,), _ = await until_closed(reader)
            assert answer.status == 200
        await until(lambda: closed(server, "over_limit") == 2)
    await until(lambda: server.metric("smartserve_connections") == 0)
    async with connected(server) as (reader, writer):
        writer.write(PROBE)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def _many(server: Serving, count: int) -> AsyncIterator[None]:
    """So many connections more, open and silent."""
    opened = server.metric("smartserve_connections") + count
    address = server.client.host, server.client.port
    writers = [(await asyncio.open_connection(*address))[1] for _ in range(count)]
    try:
        await until(lambda: server.metric("smartserve_connections") == opened)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


async def test_a_place_in_reserve_is_soon_free_again(serve: Serve) -> None:
    """Who holds one has a second for a head, whatever the deadline of others is."""
    server = await serve(server={"max_connections": 8, "header_timeout_s": 0})
    async with _many(server, 8), connected(server) as (reader, _):
        found, seconds = await until_closed(reader)
        assert (found, seconds >= 1) == ([], True)
        assert server.metric("smartserve_connections") == 8


async def test_without_a_cap_all_are_let_in(serve: Serve) -> None:
    server = await serve(server={"max_connections": 0})
    async with _many(server, 100):
        assert closed(server, "over_limit") == 0


async def test_a_client_that_leaves_is_no_fault_of_ours(
    serve: Serve, library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    """It fills no log, whether it leaves before its response is ready or while it is sent."""
    server = await serve()
    # Several megabytes: of a body below the kernel's send buffer all is sent at once.
    target = f"/serve/{library.ids['large']}?size=zoom&format="
    await warmed(server, target + "png")
    for fmt in ("png", "webp"):
        async with connected(server) as (_, writer):
            writer.write(f"GET {target}{fmt} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await until(lambda: server.surface.runner.pipeline._active == 1)
        await until(lambda: server.surface.runner.pipeline._active == 0)
    assert caplog.records == []
