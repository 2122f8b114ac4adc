"""The server: listens, accepts connections, drains and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from functools import partial
from typing import Any

from aiohttp import web

from proxy.runtime.open_file_limit import raise_limit
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import ServerSettings
from proxy.web.server.connection import ConnectionServer
from proxy.web.server.connection_limits import ConnectionLimiter
from proxy.web.server.load_shedding import LoopLagMonitor
from proxy.web.server.request_pipeline import RequestPipeline

_BACKLOG = 1024
"""Connections that may wait to be accepted. Beyond it the kernel drops their SYN packets and
clients retry after 1, 3 and 7 seconds. aiohttp's 128 are full after a moment of overload."""
_ACCEPT_PAUSE_S = 0.05
_FORCE_CLOSE_S = 0.5


class ServerRunner(web.AppRunner):
    """Runs an application behind the request pipeline, with the server's own timeouts."""

    def __init__(
        self,
        app: web.Application,
        pipeline: RequestPipeline,
        settings: ServerSettings,
        loop_lag: LoopLagMonitor,
        *,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """Nothing is bound and no lag measured before `setup` and `listen`."""
        self._supervisor = supervisor
        self._background = contextlib.AsyncExitStack()
        self._accepting = contextlib.AsyncExitStack()
        self._listeners: list[socket.socket] = []
        self._options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": settings.keepalive_s,
            "max_line_size": settings.max_header_bytes,
            "max_field_size": settings.max_header_bytes,
            # A body is counted as it arrives, and a compressed one is rejected.
            "auto_decompress": False,
            # The connection itself discards the rest of a body.
            "lingering_time": 0,
        }
        # By then responses have had `drain_s`. aiohttp waits twice this long for the rest.
        super().__init__(app, shutdown_timeout=_FORCE_CLOSE_S, **self._options)
        self.pipeline = pipeline
        self._loop_lag = loop_lag
        self._drain_s = settings.drain_s
        self._max_head_bytes = settings.max_head_bytes
        self.connection_limiter = ConnectionLimiter(settings)

    async def setup(self) -> None:
        """Prepare for connections; start the loops that watch them and the event loop."""
        limiter = self.connection_limiter
        # Without descriptors nothing can be rendered or read, so connections leave some.
        limiter.max_connections = raise_limit(limiter.max_connections)
        await super().setup()
        await self._background.enter_async_context(limiter.watching(self._supervisor))
        await self._background.enter_async_context(self._loop_lag.running())

    async def listen(self, host: str, port: int) -> None:
        """Bind and listen; port 0 takes a free one, an empty host all addresses.

        Raises:
            OSError: the address is in use or cannot be bound.
        """
        loop = asyncio.get_running_loop()
        # This server only binds. If it accepted, libuv would answer a lack of descriptors by
        # closing every connection that waits: 109 of 660 clients got a reset in place of a 503.
        bound = await loop.create_server(
            asyncio.Protocol, host or None, port, reuse_address=True, start_serving=False
        )
        with contextlib.closing(bound):
            for binding in bound.sockets:
                listener = socket.socket(fileno=os.dup(binding.fileno()))
                self._accepting.enter_context(contextlib.closing(listener))
                listener.setblocking(False)  # noqa: FBT003 - the socket's own signature
                listener.listen(_BACKLOG)
                self._listeners.append(listener)
        for listener in self._listeners:
            await self._accepting.enter_async_context(
                self._supervisor.running(BackgroundTask.ACCEPT, partial(self._accept, listener))
            )

    @property
    def addresses(self) -> list[Any]:
        """The addresses that connections are accepted at; none after `drain`."""
        return [listener.getsockname() for listener in self._listeners]

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as opening:
            while True:
                try:
                    client, _ = await loop.sock_accept(listener)
                except OSError:
                    # No descriptor or memory is left (accept(2)). What cannot be accepted waits in
                    # the kernel's backlog. The listener stays readable: without the pause, this
                    # loop would occupy a core until a descriptor is free.
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                else:
                    # In a task: the next connection need not wait until this one has started.
                    opening.create_task(self._open(client))

    async def _open(self, client: socket.socket) -> None:
        if self.server is None:
            raise AssertionError
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self.server, client)
        except OSError:
            # The client has left already.
            client.close()

    async def _stop_accepting(self) -> None:
        self._listeners.clear()
        await self._accepting.aclose()

    async def cleanup(self) -> None:
        """Close the connections, then end the background tasks."""
        await self._stop_accepting()
        await super().cleanup()
        # Last, because the deadlines apply until every connection is closed.
        await self._background.aclose()

    async def drain(self) -> None:
        """Stop accepting; return when all responses are sent, or after ``drain_s``."""
        # Open connections continue.
        await self._stop_accepting()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self.pipeline.drain()

    async def _make_server(self) -> web.Server:
        """Put the server that accepts before the application's own."""
        behind = await super()._make_server()
        return ConnectionServer(
            behind,
            self.pipeline,
            self.connection_limiter,
            max_head_bytes=self._max_head_bytes,
            options=self._options,
        )
