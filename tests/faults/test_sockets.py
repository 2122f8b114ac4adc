"""Hostile WebSocket clients of a real server: memory stays bounded, and others are served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import aiohttp
import pytest

from tests.benchmarks.processes import resident_bytes
from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SESSION = "session-0123456789"
PATH = f"/api/images_mvp/progress/{SESSION}"
EACH = 15
_MIB = 1024 * 1024
_GROWTH = 200 * _MIB
"""Of a server with 75 hostile clients, of which each may occupy a megabyte; without a limit each
would grow it by what it sends."""
_SENT = 8 * _MIB
"""Bytes that each client tries to send."""


def frame(payload: bytes, opcode: int = 1, *, last: bool = True) -> bytes:
    head = bytes([opcode | (0x80 if last else 0)])
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return head + length + bytes(4) + payload


ENDLESS = {
    "pings": lambda: frame(b"x" * 125, 9) * 400,
    "messages": lambda: frame(b'{"type":"ping"}') * 2000,
    "fragments": lambda: frame(b"x", last=False) + frame(b"x" * 100, 0, last=False) * 400,
    "a frame of an exabyte": lambda: b"\x81\xff" + (2**60).to_bytes(8) + bytes(60_000),
    "half a frame": lambda: b"\x81\xfe\xff\xff" + bytes(4) + b"x" * 60_000,
}


async def attack(server: Server, sends: Callable[[], bytes], attacked: asyncio.Event) -> None:
    """Upgrade, then send as much as the server takes, and read nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)  # noqa: FBT003 - setblocking has a positional flag
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        request = (
            f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await loop.sock_sendall(client, request.encode())
        block, sent = sends(), 0
        with suppress(ConnectionError):
            while sent < _SENT and not attacked.is_set():
                await loop.sock_sendall(client, block)
                sent += len(block)
        # Holds what the server has of it.
        await attacked.wait()


@pytest.fixture
async def server(launch: Launch) -> Server:
    return await launch(
        {
            "metadata": {"sockets_per_user": 1000},
            # No client is closed for its slowness while its memory is measured.
            "server": {"write_timeout_s": 600, "lame_duck_s": 0},
        }
    )


async def test_hostile_clients_occupy_bounded_memory_and_disturb_nobody(server: Server) -> None:
    attacked = asyncio.Event()
    async with server.client() as client, client.ws_connect(PATH) as other:
        assert (await other.receive_json(timeout=60))["type"] == "connected"
        before = resident_bytes(server.pid)
        attacks = [
            asyncio.create_task(attack(server, sends, attacked))
            for sends in ENDLESS.values()
            for _ in range(EACH)
        ]

        async def opened() -> bool:
            count = await server.metric("smartserve_metadata_sockets_accepted_total")
            return count == len(attacks) + 1

        await eventually(opened, timeout_s=120)
        for _ in range(100):
            async with client.get("/healthz") as answer:
                assert answer.status == 200
            assert resident_bytes(server.pid) - before < _GROWTH
        await other.send_json({"type": "ping"})
        # Heartbeats may precede it.
        while (await other.receive_json(timeout=60))["type"] != "pong":
            pass
        attacked.set()
        await asyncio.gather(*attacks)

        async def alone() -> bool:
            return await server.metric("smartserve_metadata_sockets") == 1

        # The others have left, or were closed for what they sent.
        await eventually(alone, timeout_s=120)


async def test_a_stopping_server_closes_its_sockets_with_1001_and_exits(server: Server) -> None:
    async with server.client() as client, client.ws_connect(PATH) as one:
        await one.receive_json(timeout=60)
        stopping = asyncio.create_task(server.stop())
        message = await one.receive(timeout=60)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert await stopping == 0
    assert "Traceback" not in server.output()
