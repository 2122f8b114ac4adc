"""Row 6: clients that are slow in any of three ways are closed in time and delay nobody."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.benchmarks.servers import program
from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_HEADER_S, _WRITE_S, _KEEPALIVE_S = 2.0, 2.0, 3.0
_SHORT = {
    "header_timeout_s": _HEADER_S,
    "write_timeout_s": _WRITE_S,
    "keepalive_s": _KEEPALIVE_S,
}
_CLIENTS = 300
_TOOLS_LEAST = 50
"""The share of slowhttptest's connections that the server must have closed itself."""


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class SlowClients:
    """Clients that send their request one byte at a time."""

    def __init__(self, server: Server, request: bytes, *, at_once: int) -> None:
        """``at_once`` bytes are sent together, then one each 100 ms."""
        self._address = "127.0.0.1", server.port
        self._request = request
        self._at_once = at_once
        self.lasted_s: list[float] = []

    async def run(self, count: int) -> None:
        """Run ``count`` clients; return when the server has closed the last."""
        await asyncio.gather(*(self._one() for _ in range(count)))

    async def _one(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)  # noqa: FBT003 - setblocking has a positional flag
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
    """Return whether the server has answered or closed."""
    try:
        client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def normal_client(server: Server, target: str) -> AsyncIterator[list[float]]:
    """Run a normal client meanwhile; yields the seconds of its responses."""
    took: list[float] = []

    async def ask() -> None:
        async with server.client() as client:
            body = None
            while True:
                began = time.monotonic()
                async with client.get(target) as answer:
                    received = await answer.read()
                took.append(time.monotonic() - began)
                assert answer.status == 200
                assert body in (None, received)
                body = received
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
    """Return when the client that reads the metrics is the only one connected."""

    async def reached() -> bool:
        return await server.metric("smartserve_connections") <= 1

    await eventually(reached, timeout_s=20)


@pytest.mark.drill
@pytest.mark.parametrize("way", ["header", "body", "read"])
async def test_slow_clients_are_closed_in_time_and_delay_nobody(
    launch: Launch, library: Library, record: Record, way: str
) -> None:
    """Three hundred clients at once in each way; some seconds."""
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
        "header": (
            SlowClients(server, head + b"X: " + b"y" * 500, at_once=len(head)),
            "header_timeout",
        ),
        "body": (SlowClients(server, post + b"y" * 1000, at_once=len(post)), "refused"),
        "read": (None, "write_timeout"),
    }[way]
    await until_quiet(server)
    before = descriptors(server.pid)
    async with normal_client(server, small) as took:
        began = time.monotonic()
        if clients is None:
            await _read_nothing(server, whole, _CLIENTS)
        else:
            await clients.run(_CLIENTS)
        lasted = time.monotonic() - began
    await until_quiet(server)
    assert await closed(server, reason) == _CLIENTS
    assert descriptors(server.pid) <= before
    assert len(took) >= 3
    assert "Traceback" not in server.output()
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


async def _read_nothing(server: Server, request: bytes, count: int) -> None:
    """Send requests without reading; return when the server has closed all connections.

    A client with a full receive buffer is not informed, so this is visible at the server only.
    """
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            await asyncio.to_thread(client.connect, ("127.0.0.1", server.port))
            client.sendall(request)

        async def reached() -> bool:
            return await closed(server, "write_timeout") >= count

        await eventually(reached, timeout_s=30)


@pytest.mark.drill
@pytest.mark.parametrize(
    ("reasons", "options"),
    [
        (["header_timeout", "over_limit"], ["-H", "-i", "1"]),
        (["refused", "over_limit"], ["-B", "-i", "1", "-s", "100000"]),
        (
            ["write_timeout", "over_limit"],
            ["-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "16", "-k", "3"],
        ),
    ],
)
async def test_slowhttptest_does_not_delay_other_clients(
    launch: Launch, library: Library, record: Record, reasons: list[str], options: list[str]
) -> None:
    """The tool's own methods, with 300 connections and a limit of 50; ten seconds each."""
    server = await launch({"server": {**_SHORT, "max_connections": 50}})
    large = f"/serve/{library.ids['large']}?size=detail&format=png"
    async with server.client() as client:
        await (await client.get(large)).read()
    before = descriptors(server.pid)
    process = await asyncio.create_subprocess_exec(
        *(program("slowhttptest"), *options),
        *("-c", "300", "-r", "150", "-l", "8", "-p", "1", "-u", server.base + large),
        stdout=asyncio.subprocess.PIPE,
    )
    answered = cut = 0
    while process.returncode is None:
        async with server.client(force_close=True) as client:
            try:
                async with client.get("/healthz") as answer:
                    answered += answer.status == 200
            except aiohttp.ClientError:
                cut += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), 0.1)
    await until_quiet(server)
    assert descriptors(server.pid) <= before
    ours = sum([await closed(server, reason) for reason in reasons])
    assert ours >= _TOOLS_LEAST
    assert answered > cut
    record(
        Figure(
            6,
            f"slowhttptest {options[0]}: 300 connections, 50 allowed",
            300,
            0,
            f"{ours} closed by us; of the probes {answered} answered, {cut} cut",
        )
    )
