"""Clients whose equal requests arrive at once."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.faults.server import Server
from tests.support.waiting import eventually

HERD = 500

Connected = tuple[StreamReader, StreamWriter]


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """The response that one client received."""

    status: int
    body: bytes


class ClientGroup:
    """Open connections, so that their requests arrive at once."""

    def __init__(self, server: Server, target: str, opened: Sequence[Connected]) -> None:
        self.server = server
        self._request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        self._opened = list(opened)

    def send(self, count: int = HERD) -> list[Connected]:
        """Send requests on ``count`` unused connections, and return these."""
        asking, self._opened = self._opened[:count], self._opened[count:]
        for _, writer in asking:
            writer.write(self._request)
        return asking

    async def at_work(self) -> int:
        """Return the worker that has the render, when one has it."""

        async def reached() -> bool:
            return await self.server.metric("smartserve_renders_in_flight") >= 1

        await eventually(reached, timeout_s=10)
        (worker,) = self.server.workers()[:1]
        return worker


@asynccontextmanager
async def gathered(server: Server, target: str, count: int) -> AsyncIterator[ClientGroup]:
    """Open connections for the length of the block."""
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(count)]
    try:
        yield ClientGroup(server, target, opened)
    finally:
        for _, writer in opened:
            writer.close()


async def response(reader: StreamReader) -> ClientResponse:
    """Read a whole response; raise IncompleteReadError if the connection ends before."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = bytearray()
    if b"transfer-encoding: chunked" in head.lower():
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
    else:
        body += await reader.read()
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        assert len(body) == int(length.split(b":")[1])
    return ClientResponse(int(head[9:12]), bytes(body))
