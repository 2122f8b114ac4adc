"""The TCP proxy of the drills."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from tests.faults.tcpproxy import TcpProxy

Connect = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]


async def _echo(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    """Run a proxy in front of an echo server."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, TcpProxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@pytest.fixture
async def connect(proxy: TcpProxy) -> AsyncIterator[Connect]:
    """Connect through the proxy; unless it is silent, bytes have passed already."""
    writers: list[StreamWriter] = []

    async def connect() -> tuple[StreamReader, StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(writer)
        if not proxy._silent:
            writer.write(b"first")
            assert await reader.readexactly(5) == b"first"
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_bytes_are_forwarded_in_both_directions(proxy: TcpProxy, connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(bytes(1_000_000))
    assert await reader.readexactly(1_000_000) == bytes(1_000_000)
    assert proxy.connections == 1


async def test_a_delay_holds_bytes_until_the_fault_is_removed(
    proxy: TcpProxy, connect: Connect
) -> None:
    reader, writer = await connect()
    proxy.delay_s = 3600
    writer.write(b"late")
    reading = asyncio.create_task(reader.readexactly(4))
    assert await asyncio.wait([reading], timeout=0.1) == (set(), {reading})
    await proxy.heal()
    assert await reading == b"late"


async def test_a_rate_limit_delays_bytes(proxy: TcpProxy, connect: Connect) -> None:
    reader, writer = await connect()
    proxy.bytes_per_s = 100
    writer.write(bytes(2000))
    await reader.readexactly(1)
    reading = asyncio.create_task(reader.readexactly(1999))
    assert await asyncio.wait([reading], timeout=0.1) == (set(), {reading})
    reading.cancel()


async def test_a_cut_connection_ends(proxy: TcpProxy, connect: Connect) -> None:
    reader, _ = await connect()
    proxy.cut()
    assert await reader.read() == b""


async def test_a_reset_connection_raises_an_error(proxy: TcpProxy, connect: Connect) -> None:
    reader, _ = await connect()
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_silent_connections_stay_silent_after_the_fault(
    proxy: TcpProxy, connect: Connect
) -> None:
    before = await connect()
    proxy.go_silent()
    during = await connect()
    await proxy.heal()
    for reader, writer in (before, during):
        writer.write(b"anybody there?")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
    await connect()


async def test_a_refusing_proxy_accepts_connections_again_after_the_fault(
    proxy: TcpProxy, connect: Connect
) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect()
    await proxy.heal()
    await connect()
