"""The server's life: listen, serve until told to stop, finish what runs, go."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from proxy.errors import ConfigurationError
from proxy.settings import ServerSettings
from proxy.web.health import Health
from proxy.web.runner import Runner

_LAG_INTERVAL_S = 0.5

log = structlog.get_logger(__name__)


@asynccontextmanager
async def listening(runner: Runner, health: Health, settings: ServerSettings) -> AsyncIterator[int]:
    """Listen for the length of the block; gives the port.

    In the end readiness fails first, then no more connections are taken, and answers under way
    have ``drain_s`` to finish.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise ConfigurationError(
                [f"server: cannot listen on {where}: {error.strerror}"]
            ) from error
        yield runner.addresses[0][1]
    finally:
        health.draining = True
        await runner.drain()
        await runner.cleanup()


async def until_stopped() -> None:
    """Return at SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    log.info("stopping")


@asynccontextmanager
async def lag_watch(note: Callable[[float], None]) -> AsyncIterator[None]:
    """Tell, for the length of the block, by how many seconds a timer of the loop comes late."""
    task = asyncio.create_task(_watch_lag(note))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch_lag(note: Callable[[float], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL_S
        await asyncio.sleep(_LAG_INTERVAL_S)
        note(max(0.0, loop.time() - due))
