"""The server: listens, accepts connections, drains and stops them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiohttp import web

from proxy.runtime.open_file_limit import raise_limit
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.settings import ServerSettings
from proxy.web.server.connection import ConnectionServer
from proxy.web.server.connection_limits import ConnectionLimiter
from proxy.web.server.load_shedding import LoopLagMonitor
from proxy.web.server.request_pipeline import RequestPipeline

_BACKLOG = 1024
"""Connections that may wait to be accepted. Beyond it the kernel drops their SYN packets and
clients retry after 1, 3 and 7 seconds. aiohttp's 128 are full after a moment of overload."""
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
        # Descriptors must not run out: libuv gives up its spare one then, another thread may get
        # it, and the listening socket stays readable while nothing can be accepted.
        limiter.max_connections = raise_limit(limiter.max_connections)
        await super().setup()
        await self._background.enter_async_context(limiter.watching(self._supervisor))
        await self._background.enter_async_context(self._loop_lag.running())

    async def listen(self, host: str, port: int) -> None:
        """Bind and listen; port 0 takes a free one, an empty host all addresses.

        Raises:
            OSError: the address is in use or cannot be bound.
        """
        await web.TCPSite(self, host or None, port, backlog=_BACKLOG, reuse_address=True).start()

    async def cleanup(self) -> None:
        """Close the connections, then end the background tasks."""
        await super().cleanup()
        # Last, because the deadlines apply until every connection is closed.
        await self._background.aclose()

    async def drain(self) -> None:
        """Stop accepting; return when all responses are sent, or after ``drain_s``."""
        # Only the listening sockets are closed; open connections continue.
        for site in list(self.sites):
            await site.stop()
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
