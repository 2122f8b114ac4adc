"""A TCP proxy that simulates network faults: delay, throttle, close, reset, silence."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from types import TracebackType
from typing import Self

_READ_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: closing sends RST and not FIN (socket(7))."""


class TcpProxy:
    """Forwards connections to a port of this machine; faults may be changed while it runs.

    ``async with`` listens on `port`.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        """``target`` is a port of this machine, ``host`` the address to listen on."""
        self.host = host
        self.port = 0
        self.delay_s = 0.0
        """Delay of all bytes in seconds, in each direction."""
        self.bytes_per_s = 0
        """Rate limit of a connection in bytes per second, in each direction; 0 means unlimited."""
        self._target = target
        self._silent = False
        self._healed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self._listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and close the open connections."""
        self._deafen()
        tasks = [link.task for link in self._links]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """The number of open connections, including silent ones."""
        return len(self._links)

    def cut(self) -> None:
        """Close the open connections with FIN."""
        for link in tuple(self._links):
            link.cut()

    def reset(self) -> None:
        """Close the open connections with RST."""
        for link in tuple(self._links):
            link.reset()

    def go_silent(self) -> None:
        """Discard all bytes from now on: neither end is informed that the link is dead.

        Connections that are open now, or are opened until `heal`, stay silent.
        """
        self._silent = True
        for link in self._links:
            link.dead = True

    def refuse(self) -> None:
        """Refuse new connections and reset the open ones."""
        self._deafen()
        self.reset()

    async def heal(self) -> None:
        """Remove all faults, and forward delayed bytes at once."""
        self.delay_s, self.bytes_per_s, self._silent = 0.0, 0, False
        self._healed.set()
        self._healed = asyncio.Event()
        if self._server is None:
            await self._listen()

    async def wait(self) -> None:
        """Wait for the delay, or until the faults are removed."""
        if self.delay_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._healed.wait(), self.delay_s)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        link = _Link(self, reader, writer, dead=self._silent)
        self._links.add(link)
        try:
            # Closed by the proxy itself; asyncio would report it as an error of this callback.
            with suppress(asyncio.CancelledError):
                await link.run(self._target)
        finally:
            self._links.discard(link)


class _Link:
    """One connection, and its forwarded connection unless it is silent from the start."""

    def __init__(
        self, proxy: TcpProxy, reader: StreamReader, writer: StreamWriter, *, dead: bool
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.dead = dead
        self._proxy = proxy
        self._near = (reader, writer)
        self._writers = [writer]

    async def run(self, target: int) -> None:
        """Forward bytes until either end is closed."""
        try:
            with suppress(OSError):
                await self._carry(target)
        finally:
            self.cut()

    async def _carry(self, target: int) -> None:
        reader, writer = self._near
        if self.dead:
            await self._pump(reader, writer)
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        self._writers.append(far_writer)
        ways = [self._pump(reader, far_writer), self._pump(far_reader, writer)]
        pumps = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: StreamReader, writer: StreamWriter) -> None:
        while chunk := await reader.read(_READ_BYTES):
            await self._proxy.wait()
            if self.dead:
                continue
            for piece in _pieces(chunk, self._proxy.bytes_per_s):
                writer.write(piece)
                await writer.drain()
                if self._proxy.bytes_per_s:
                    await asyncio.sleep(len(piece) / self._proxy.bytes_per_s)

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        for writer in self._writers:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                )
            writer.transport.abort()


def _pieces(chunk: bytes, bytes_per_s: int) -> list[bytes]:
    """Split a chunk into parts of 50 ms if the rate is limited."""
    length = max(1, bytes_per_s // 20) if bytes_per_s else len(chunk)
    return [chunk[start : start + length] for start in range(0, len(chunk), length)]
