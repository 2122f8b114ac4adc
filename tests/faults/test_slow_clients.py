# ruff: noqa: ASYNC110 - another process has no events
"""Row 6: slow clients in all three ways hold no place for long, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.benchmarks.servers import program
from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.serving import Library

_HEADER_S, _WRITE_S, _KEEPALIVE_S = 2.0, 2.0, 3.0
_SHORT = {
    "header_timeout_s": _HEADER_S,
    "write_timeout_s": _WRITE_S,
    "keepalive_s": _KEEPALIVE_S,
}
_CLIENTS = 300
_CLOSED = re.compile(r"closed:\s+(\d+)")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Slow:
    """Clients that dribble: each sends its request a byte at a time, or reads nothing of it."""

    def __init__(
        self, server: Server, request: bytes, *, at_once: int, receive: int = 65536
    ) -> None:
        """``at_once`` bytes go out together, then one each tenth of a second."""
        self._address = "127.0.0.1", server.port
        self._request = request
        self._at_once = at_once
        self._receive = receive
        self.lasted_s: list[float] = []

    async def run(self, count: int) -> None:
        """So many of them at once; returns when the server has closed the last."""
        await asyncio.gather(*(self._one() for _ in range(count)))

    async def _one(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive)
            client.setblocking(False)  # noqa: FBT003 - the socket's own way
            await loop.sock_connect(client, self._address)
            began = time.monotonic()
            with suppress(ConnectionError):
                await self._dribble(client)
            self.lasted_s.append(time.monotonic() - began)

    async def _dribble(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, self._request[: self._at_once])
        for byte in self._request[self._at_once :]:
            await loop.sock_sendall(client, bytes((byte,)))
            await asyncio.sleep(0.1)
            if _is_over(client):
                return


def _is_over(client: socket.socket) -> bool:
    """Whether the server has answered or closed."""
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def asking(server: Server, target: str) -> AsyncIterator[list[float]]:
    """An honest client that asks on meanwhile; the seconds that each of its answers took."""
    took: list[float] = []

    async def ask() -> None:
        async with server.client() as client:
            body = None
            while True:
                began = time.monotonic()
                async with client.get(target) as answer:
                    told = await answer.read()
                took.append(time.monotonic() - began)
                assert answer.status == 200
                assert body in (None, told)
                body = told
                await asyncio.sleep(0.02)

    task = asyncio.create_task(ask())
    try:
        yield took
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def closed(server: Server, reason: str) -> int:
    return int(await server.metric("smartserve_connections_closed_total", reason=reason))


async def until_quiet(server: Server) -> None:
    """Return when the one that asks for the metrics is the only one connected."""
    async with asyncio.timeout(20):
        while await server.metric("smartserve_connections") > 1:
            await asyncio.sleep(0.05)


@pytest.mark.drill
@pytest.mark.parametrize("way", ["header", "body", "read"])
async def test_slow_clients_are_closed_in_time_and_others_do_not_notice(
    launch: Launch, library: Library, record: Record, way: str
) -> None:
    """Three hundred at once in each way; some seconds."""
    server = await launch({"server": _SHORT})
    small = f"/serve/{library.ids['photo']}?size=thumbnail&format=webp"
    large = f"/serve/{library.ids['large']}?size=detail&format=png"
    async with server.client() as client:
        for target in (small, small, large, large):
            await (await client.get(target)).read()
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    post = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    whole = f"GET {large} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    clients, reason = {
        "header": (Slow(server, head + b"X: " + b"y" * 500, at_once=len(head)), "header_timeout"),
        "body": (Slow(server, post + b"y" * 1000, at_once=len(post)), "refused"),
        "read": (Slow(server, whole, at_once=len(whole), receive=2048), "write_timeout"),
    }[way]
    if way == "read":
        clients._dribble = lambda client: _read_nothing(client, whole)  # type: ignore[method-assign]
    await until_quiet(server)
    before = descriptors(server.pid)
    async with asking(server, small) as took:
        began = time.monotonic()
        await clients.run(_CLIENTS)
        lasted = time.monotonic() - began
    await until_quiet(server)
    assert await closed(server, reason) == _CLIENTS
    assert descriptors(server.pid) <= before
    assert len(took) > 10
    assert "Traceback" not in server.told()
    longest = max(took) * 1000
    record(
        Figure(
            6,
            f"clients at once, slow with the {way}".replace("with the read", "to read"),
            _CLIENTS,
            0,
            f"last closed after {lasted:.1f} s; {len(took)} others answered, "
            f"longest {longest:.0f} ms",
        )
    )


async def _read_nothing(client: socket.socket, request: bytes) -> None:
    """Ask, read nothing, and return when the server has cut the connection."""
    await asyncio.get_running_loop().sock_sendall(client, request)
    while not client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) and not _is_reset(client):
        await asyncio.sleep(0.1)


def _is_reset(client: socket.socket) -> bool:
    """Whether the other side is gone for good: in TCP_INFO's first byte no more ESTABLISHED."""
    established = 1
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != established


@pytest.mark.drill
@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("header", ["-H", "-i", "1"]),
        ("body", ["-B", "-i", "1", "-s", "100000"]),
        ("read", ["-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "16", "-k", "3"]),
    ],
)
async def test_slowhttptest_does_not_keep_the_server_from_others(
    launch: Launch, library: Library, record: Record, way: str, options: list[str]
) -> None:
    """The tool's own ways, with 400 connections against a cap of 200; ten seconds each."""
    server = await launch({"server": {**_SHORT, "max_connections": 200}})
    large = f"/serve/{library.ids['large']}?size=detail&format=png"
    async with server.client() as client:
        await (await client.get(large)).read()
    before = descriptors(server.pid)
    process = await asyncio.create_subprocess_exec(
        *(program("slowhttptest"), *options),
        *("-c", "400", "-r", "200", "-l", "10", "-p", "1", "-u", server.base + large),
        stdout=asyncio.subprocess.PIPE,
    )
    answered = refused = 0
    while process.returncode is None:
        async with server.client(force_close=True) as client:
            for path in ("/healthz", "/readyz"):
                try:
                    async with client.get(path) as answer:
                        answered += answer.status == 200
                except aiohttp.ClientError:
                    refused += 1
        await _ended_within(process, 0.1)
    told = (await process.stdout.read()).decode(errors="replace") if process.stdout else ""
    await until_quiet(server)
    assert descriptors(server.pid) <= before
    assert await closed(server, "over_limit") > 0
    assert answered > 4 * refused
    closed_by_us = max(map(int, _CLOSED.findall(told)), default=0)
    record(
        Figure(
            6,
            f"slowhttptest {options[0]}, 400 connections, cap 200",
            400,
            0,
            f"{closed_by_us} closed by us; of the probes {answered} answered, {refused} cut",
        )
    )


async def _ended_within(process: asyncio.subprocess.Process, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(process.wait()), seconds)
