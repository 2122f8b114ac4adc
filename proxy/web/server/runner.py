"""The runner: an application behind a front desk, from its start to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiohttp import web

from proxy.runtime.open_file_limit import make_room
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.settings import ServerSettings
from proxy.web.server.connection import ConnectionServer
from proxy.web.server.connection_limits import ConnectionLimiter
from proxy.web.server.listener import ListenSite
from proxy.web.server.loop_lag import LoopLagMonitor
from proxy.web.server.request_pipeline import RequestPipeline

_LAST_CALL_S = 0.5


class ServerRunner(web.AppRunner):
    """Runs an application behind a front desk, with the server's own time limits."""

    def __init__(
        self,
        app: web.Application,
        frontdesk: RequestPipeline,
        settings: ServerSettings,
        pulse: LoopLagMonitor,
        *,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """Nothing is bound, and the pulse rests, before `setup` and a site."""
        self._pulse = pulse
        self._supervisor = supervisor
        self._background = contextlib.AsyncExitStack()
        self._options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": settings.keepalive_s,
            "max_line_size": settings.max_header_bytes,
            "max_field_size": settings.max_header_bytes,
            # A body is counted as it comes, and one that is packed is refused.
            "auto_decompress": False,
            # What is left of a body is thrown away by the connection itself.
            "lingering_time": 0,
        }
        # By then answers have had `drain_s`; aiohttp waits twice this for what is left.
        super().__init__(app, shutdown_timeout=_LAST_CALL_S, **self._options)
        self._frontdesk = frontdesk
        self._drain_s = settings.drain_s
        self._max_head_bytes = settings.max_head_bytes
        self.doorkeeper = ConnectionLimiter(settings)

    async def setup(self) -> None:
        """Make all ready for connections, and look after them from then on."""
        self.doorkeeper.max_connections = make_room(self.doorkeeper.max_connections)
        await super().setup()
        await self._background.enter_async_context(self.doorkeeper.watching(self._supervisor))
        await self._background.enter_async_context(self._pulse.beating())

    async def cleanup(self) -> None:
        """Close what is open."""
        await super().cleanup()
        await self._background.aclose()

    def site(self, host: str, port: int) -> ListenSite:
        """An address to listen on; port 0 takes a free one."""
        return ListenSite(self, host, port, refusal=self._frontdesk.no_room)

    async def drain(self) -> None:
        """Take no more connections; return when all answers are out, or after ``drain_s``."""
        for site in list(self.sites):
            await site.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._frontdesk.drain()

    async def _make_server(self) -> web.Server:
        """The application's own server, behind the one that accepts."""
        behind = await super()._make_server()
        return ConnectionServer(
            behind,
            self._frontdesk,
            self.doorkeeper,
            max_head_bytes=self._max_head_bytes,
            options=self._options,
        )
