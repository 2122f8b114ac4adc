"""Accepting where descriptors run out: refused by the spare one, and no spin without it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from proxy.web.server.listener import Acceptor, _bound

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(data)


@pytest.fixture
async def acceptor() -> AsyncIterator[Acceptor]:
    listener = _bound(ExitStack(), socket.AF_INET, ("127.0.0.1", 0))
    acceptor = Acceptor([listener], Echo, lambda: REFUSAL)
    yield acceptor
    acceptor.close()


def client(acceptor: Acceptor) -> socket.socket:
    """A client whose connection waits to be accepted, and which has asked."""
    connection = socket.create_connection(acceptor.sockets[0].getsockname(), 10)
    connection.settimeout(0)
    connection.send(b"hello")
    return connection


async def answer(connection: socket.socket) -> bytes:
    async with asyncio.timeout(10):
        return await asyncio.get_running_loop().sock_recv(connection, 1024)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """None is left for the length of the block, but for numbers that are given up meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    os.close(lowest)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_are_accepted(acceptor: Acceptor) -> None:
    with client(acceptor) as first, client(acceptor) as second:
        assert await answer(first) == await answer(second) == b"hello"


async def test_what_no_descriptor_is_left_for_is_refused_at_once(acceptor: Acceptor) -> None:
    with client(acceptor) as first, client(acceptor) as second:
        with no_descriptors():
            assert await answer(first) == await answer(second) == REFUSAL
        with client(acceptor) as third:
            assert await answer(third) == b"hello"


async def test_without_a_spare_descriptor_the_listener_is_left_alone_for_a_while(
    acceptor: Acceptor,
) -> None:
    """It would be readable on and on."""
    listener = acceptor.sockets[0].fileno()
    loop = asyncio.get_running_loop()
    with client(acceptor) as first:
        acceptor._spare.give_up()
        with no_descriptors():
            async with asyncio.timeout(10):
                while not acceptor._pauses:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0)
            assert not loop.remove_reader(listener)
        assert await answer(first) == b"hello"
    assert acceptor._spare._descriptor is not None


async def test_a_closed_acceptor_does_not_wake_up_from_a_pause(acceptor: Acceptor) -> None:
    acceptor._pause(acceptor.sockets[0])
    (pause,) = acceptor._pauses.values()
    acceptor.close()
    assert pause.cancelled()
    assert acceptor.sockets == []
