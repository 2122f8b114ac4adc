"""Server lifecycle: listen, serve until a signal, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from proxy.domain.errors import ConfigurationError
from proxy.settings import ServerSettings
from proxy.web.handlers.health import HealthHandler
from proxy.web.server.runner import ServerRunner

_STDIN = 0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def listening(
    runner: ServerRunner, health: HealthHandler, settings: ServerSettings
) -> AsyncIterator[int]:
    """Listen within the block; yields the port.

    At the end readiness fails first. Then no more connections are accepted, and responses being
    sent have ``drain_s`` to finish.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    await runner.setup()
    try:
        try:
            await runner.listen(settings.host, settings.port)
        except OSError as error:
            address = f"{settings.host}:{settings.port}"
            raise ConfigurationError(
                [f"server: cannot listen on {address}: {error.strerror}"]
            ) from error
        # After the setup, so that the objects it created are included.
        freeze()
        yield runner.addresses[0][1]
    finally:
        health.drain()
        await runner.drain()
        await runner.cleanup()


def freeze() -> None:
    """Exclude all existing objects from garbage collection.

    Most are modules, which live as long as the process. Scanning them blocked the loop, and so all
    hits, for 70 to 80 ms every few seconds under load, and took most of a second at exit.
    """
    gc.collect()
    gc.freeze()


def stop_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; later signals have no effect.

    At a terminal SIGHUP means that the terminal was closed, and stops the server. For a service it
    means "reload the settings", which needs a restart: a warning is logged and serving continues.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    at_terminal = os.isatty(_STDIN)
    loop.add_signal_handler(signal.SIGHUP, stopped.set if at_terminal else _log_hangup)
    return stopped


def _log_hangup() -> None:
    log.warning(
        "hangup_ignored", detail="settings are read only at the start; restart to apply changes"
    )


@asynccontextmanager
async def interruptible(stopped: asyncio.Event) -> AsyncIterator[None]:
    """Abort the block when the event is set, and continue after it."""
    limit = asyncio.timeout(None)
    watch = asyncio.create_task(_expire_when_set(limit, stopped))
    try:
        async with limit:
            yield
    except TimeoutError:
        # A timeout inside the block is the block's own.
        if not limit.expired():
            raise
    finally:
        watch.cancel()


async def _expire_when_set(limit: asyncio.Timeout, stopped: asyncio.Event) -> None:
    await stopped.wait()
    # A timeout that has expired cancels the block.
    limit.reschedule(asyncio.get_running_loop().time())
