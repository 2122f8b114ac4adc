"""Upgrades to WebSocket: passed through by the parser, and no deadline of a request applies."""

from __future__ import annotations

import asyncio
import base64
import socket as socket_module
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from proxy.domain.request import Outcome
from proxy.web.responses import BufferedResponse, SocketResponse, whole
from proxy.web.server.connection import Connection
from tests.support.waiting import eventually
from tests.web.server.test_runner import HOST, Server
from tests.web.wire import answers, exchange

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SECOND = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OUTCOME = Outcome("echo")


def frame(payload: bytes, opcode: int = 1, *, last: bool = True, bits: int = 0) -> bytes:
    """Return a frame of a client; the mask of zeros changes nothing."""
    head = bytes([opcode | bits | (0x80 if last else 0)])
    if len(payload) < 126:
        length = bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        length = b"\xfe" + len(payload).to_bytes(2)
    else:
        length = b"\xff" + len(payload).to_bytes(8)
    return head + length + bytes(4) + payload


CLOSE = frame(b"\x03\xe8", 8)


async def echo(_request: web.BaseRequest) -> SocketResponse:
    async def converse(socket: SocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_message({"got": message.data[:100]})
            elif message.type is WSMsgType.PING:
                await socket.pong(message.data)

    return SocketResponse(converse, outcome=OUTCOME)


def connection_of(server: Server) -> Connection:
    assert server.runner._connections is not None
    (connection,) = server.runner._connections.open
    return connection


@asynccontextmanager
async def socket_to(port: int) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{HOST}:{port}/") as socket,
    ):
        yield socket


async def test_a_client_converses_and_closes() -> None:
    server = Server(echo)
    async with server.listening() as port, socket_to(port) as socket:
        for text in ("one", "two"):
            await socket.send_str(text)
            assert await socket.receive_json(timeout=20) == {"got": text}
        await socket.close()
        assert socket.close_code == 1000
        await eventually(lambda: server.runner.statistics()["closed_ended"] == 1)


async def test_frames_that_arrive_with_the_request_are_read() -> None:
    server = Server(echo)
    async with server.listening() as port:
        told = await exchange(HOST, port, UPGRADE + frame(b"early") + CLOSE)
    head, _, frames = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nX-Request-Id: " in head
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert frames == b"\x81\x0f" + b'{"got":"early"}' + b"\x88\x02\x03\xe8"


async def test_requests_before_the_upgrade_are_answered_first() -> None:
    async def either(request: web.BaseRequest) -> SocketResponse | BufferedResponse:
        upgrades = "Upgrade" in request.headers
        return await echo(request) if upgrades else whole(200, [], b"ok", outcome=OUTCOME)

    server = Server(either)
    async with server.listening() as port:
        told = await exchange(HOST, port, SECOND + UPGRADE + frame(b"x") + CLOSE)
    first, _, rest = told.partition(b"HTTP/1.1 101")
    assert [one.status for one in answers(first)] == [200]
    assert b'{"got":"x"}' in rest


@pytest.mark.parametrize(
    "offer",
    [
        UPGRADE,
        UPGRADE.replace(b"websocket", b"h2c"),
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        UPGRADE.replace(b"GET", b"DELETE"),
    ],
)
async def test_what_follows_a_declined_upgrade_is_discarded(offer: bytes) -> None:
    """Its client may go on in the other protocol, so it must not be read as a request."""
    server = Server()
    async with server.listening() as port:
        told = [await exchange(HOST, port, offer + SECOND, SECOND) for _ in range(3)]
    statuses = [[one.status for one in answers(one)] for one in told]
    assert statuses in ([[200]] * 3, [[405]] * 3)
    assert {one.headers["connection"] for body in told for one in answers(body)} == {"close"}


async def test_no_deadline_of_a_request_closes_a_socket() -> None:
    server = Server(echo, keepalive_s=1, header_timeout_s=1)
    async with server.listening() as port, socket_to(port) as socket:
        connection = connection_of(server)
        connection.review(asyncio.get_running_loop().time() + 3600)
        connection.close_idle()
        assert not connection.evict()
        await socket.send_str("still here")
        assert await socket.receive_json(timeout=20) == {"got": "still here"}


async def test_a_client_that_does_not_read_is_closed_after_the_write_timeout() -> None:
    sent = asyncio.Event()

    async def talkative(_request: web.BaseRequest) -> SocketResponse:
        async def converse(socket: SocketResponse) -> None:
            while True:
                await socket.send_message({"text": "x" * 60_000})
                sent.set()

        return SocketResponse(converse, outcome=OUTCOME)

    server = Server(talkative, write_timeout_s=30)
    async with server.listening() as port:
        _reader, writer = await asyncio.open_connection(HOST, port, limit=1024)
        writer.write(UPGRADE)
        await sent.wait()
        connection = connection_of(server)
        await eventually(lambda: connection.writing_paused)
        assert connection._wire is not None
        # What waits is one message more than the transport's own limit of 64 KiB.
        assert connection._wire.get_write_buffer_size() < 256 * 1024
        now = asyncio.get_running_loop().time()
        connection.review(now)
        connection.review(now + 29)
        assert server.runner.statistics()["open"] == 1
        connection.review(now + 31)
        await eventually(lambda: server.runner.statistics()["closed_write_timeout"] == 1)
        await asyncio.wait_for(server.runner.pipeline.drain(), 20)
        writer.close()


async def test_a_client_that_sends_no_pong_is_closed() -> None:
    async def impatient(_request: web.BaseRequest) -> SocketResponse:
        async def converse(socket: SocketResponse) -> None:
            async for _ in socket:
                pass

        return SocketResponse(converse, outcome=OUTCOME, ping_s=0.05)

    server = Server(impatient)
    async with server.listening() as port:
        told = await exchange(HOST, port, UPGRADE)
        assert told.partition(b"\r\n\r\n")[2].startswith(b"\x89\x00"), "a ping"
        await eventually(lambda: server.runner.statistics()["open"] == 0)


async def test_a_drain_is_announced_once_and_waits_for_sockets() -> None:
    server = Server(echo, lame_duck_s=600, drain_s=60)
    begun: list[str] = []
    server.runner.on_drain.append(lambda: begun.append("drain"))
    async with server.listening() as port, socket_to(port) as socket:
        hurried = asyncio.Event()
        server.runner.begin_drain(hurried)
        assert begun == ["drain"]
        draining = asyncio.create_task(server.runner.drain())
        hurried.set()
        await eventually(lambda: not server.runner.addresses)
        await socket.send_str("x")
        assert await socket.receive_json(timeout=20) == {"got": "x"}
        assert not draining.done()
        await socket.close()
        await asyncio.wait_for(draining, 20)
    assert begun == ["drain"]


async def test_a_defect_closes_the_socket_with_1011_and_no_http() -> None:
    released: list[str] = []

    async def broken(_request: web.BaseRequest) -> SocketResponse:
        async def converse(_socket: SocketResponse) -> None:
            raise KeyError

        return SocketResponse(converse, outcome=OUTCOME, release=lambda: released.append("x"))

    server = Server(broken)
    async with server.listening() as port, socket_to(port) as socket:
        message = await socket.receive(timeout=20)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)
    assert released == ["x"]


async def test_a_client_that_leaves_before_the_upgrade_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def abandoned(request: web.BaseRequest) -> SocketResponse:
        assert request.transport is not None
        request.transport.abort()
        return SocketResponse(
            lambda _: asyncio.sleep(0), outcome=OUTCOME, release=lambda: ended.append("x")
        )

    server = Server(abandoned)
    async with server.listening() as port:
        with suppress(ConnectionError):
            await exchange(HOST, port, UPGRADE)
        await eventually(lambda: server.runner.statistics()["open"] == 0)
    assert ended == ["x"]
    assert not caplog.records


async def test_the_time_of_a_socket_is_not_counted_as_that_of_a_response() -> None:
    opened = asyncio.Event()

    async def waits(_request: web.BaseRequest) -> SocketResponse:
        async def converse(socket: SocketResponse) -> None:
            await socket.send_message({})
            await opened.wait()

        return SocketResponse(converse, outcome=OUTCOME)

    server = Server(waits)
    async with server.listening() as port, socket_to(port) as socket:
        await socket.receive(timeout=20)
        began = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() - began > 0.2)
        opened.set()
        await socket.receive(timeout=20)
    histogram = server.runner.pipeline._metrics.histogram_of(OUTCOME, 101)
    assert histogram.last_byte_s == histogram.first_byte_s


HOSTILE = {
    "a message above the limit": (frame(b"x" * (64 * 1024 + 1)), 1009),
    "a frame that announces an exabyte": (b"\x81\xff" + (2**60).to_bytes(8) + bytes(4), 1009),
    "fragments that exceed the limit together": (
        frame(b"x" * 60_000, last=False) + frame(b"x" * 60_000, 0),
        1009,
    ),
    "a compressed message, which was not negotiated": (frame(b"x" * 50, bits=0x40), 1002),
    "a fragmented ping": (frame(b"", 9, last=False), 1002),
    "a long ping": (frame(b"x" * 126, 9), 1002),
    "an unknown opcode": (frame(b"", 3), 1002),
    "text that is not UTF-8": (frame(b"\xff\xfe"), 1007),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_frame_closes_its_socket_only(what: str) -> None:
    sent, code = HOSTILE[what]
    server = Server(echo)
    async with server.listening() as port:
        offer = UPGRADE.replace(
            b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        async with socket_to(port) as other:
            told = await exchange(HOST, port, offer, sent)
            head, _, frames = told.partition(b"\r\n\r\n")
            assert b"Sec-WebSocket-Extensions" not in head
            assert frames[:1] == b"\x88", frames
            assert int.from_bytes(frames[2:4]) == code
            await other.send_str("x")
            assert await other.receive_json(timeout=20) == {"got": "x"}


async def test_a_message_of_64_kib_is_read() -> None:
    server = Server(echo)
    async with server.listening() as port, socket_to(port) as socket:
        await socket.send_str("x" * 64 * 1024)
        assert await socket.receive_json(timeout=20) == {"got": "x" * 100}


async def test_a_thousand_empty_fragments_are_one_message() -> None:
    server = Server(echo)
    fragments = frame(b"a", last=False) + frame(b"", 0, last=False) * 1000 + frame(b"b", 0)
    async with server.listening() as port:
        told = await exchange(HOST, port, UPGRADE, fragments + CLOSE)
    assert b'{"got":"ab"}' in told


@pytest.mark.parametrize("flood", [frame(b"x" * 125, 9), frame(b"x" * 100)])
async def test_who_floods_and_reads_nothing_is_read_no_more(flood: bytes) -> None:
    """Pongs and responses that nobody reads must not gather in memory, nor the messages."""
    server = Server(echo)
    async with server.listening() as port:
        client = socket_that_takes_little()
        await asyncio.get_running_loop().sock_connect(client, (HOST, port))
        _reader, writer = await asyncio.open_connection(sock=client, limit=1024)
        writer.write(UPGRADE)
        wire = (await opened(server))._wire
        assert wire is not None
        # The kernel would take megabytes of responses, for which a busy machine needs long.
        own = wire.get_extra_info("socket")
        own.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_SNDBUF, 4096)

        def paused() -> bool:
            if not writer.transport.get_write_buffer_size():
                writer.write(flood * 1000)
            return not wire.is_reading()

        await eventually(paused)
        assert wire.get_write_buffer_size() < 256 * 1024
        writer.transport.abort()
        await eventually(lambda: server.runner.statistics()["open"] == 0)


def socket_that_takes_little() -> socket_module.socket:
    client = socket_module.socket()
    client.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, 4096)
    client.setblocking(False)  # noqa: FBT003 - the socket's own way
    return client


async def opened(server: Server) -> Connection:
    await eventually(lambda: server.runner.statistics()["open"] == 1)
    return connection_of(server)


async def test_a_wrong_handshake_is_an_error_of_its_handler() -> None:
    key = base64.b64encode(b"short")

    async def careful(request: web.BaseRequest) -> SocketResponse | BufferedResponse:
        answer = await echo(request)
        return answer if answer.can_prepare(request) else whole(426, [], b"", outcome=OUTCOME)

    server = Server(careful)
    async with server.listening() as port:
        wrong = (
            SECOND.replace(b"Host", b"Connection: close\r\nHost"),
            UPGRADE.replace(b"Version: 13", b"Version: 99"),
            UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", key),
        )
        for offer in wrong:
            assert [one.status for one in answers(await exchange(HOST, port, offer))] == [426]
