"""The server's life: listen, serve until told to stop, finish what runs, go."""

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
    """Listen for the length of the block; gives the port.

    In the end readiness fails first, then no more connections are taken, and answers under way
    have ``drain_s`` to finish.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    await runner.setup()
    try:
        try:
            await runner.listen(settings.host, settings.port)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise ConfigurationError(
                [f"server: cannot listen on {where}: {error.strerror}"]
            ) from error
        freeze()
        yield runner.addresses[0][1]
    finally:
        health.drain()
        await runner.drain()
        await runner.cleanup()


def freeze() -> None:
    """Keep the garbage collector off what is there by now, until the process ends.

    That is mostly modules, which last as long as the process: to walk them all, every few seconds
    under load, held up the loop, and with it all hits, for 70 to 80 ms each time; and at the end it
    took most of a second.
    """
    gc.collect()
    gc.freeze()


def stop_signals() -> asyncio.Event:
    """Set at SIGTERM or SIGINT, from now on; once it is set, further ones change nothing.

    SIGHUP stops a server whose terminal has gone. To a service it means that settings should be
    read anew, which takes a restart: it is told in the log, and serving goes on.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    at_terminal = os.isatty(_STDIN)
    loop.add_signal_handler(signal.SIGHUP, stopped.set if at_terminal else _note_hangup)
    return stopped


def _note_hangup() -> None:
    log.warning("hangup_ignored", detail="settings are read at the start: restart to change them")


@asynccontextmanager
async def interruptible(stopped: asyncio.Event) -> AsyncIterator[None]:
    """Leave the block where it is, and go on behind it, when the event is set."""
    limit = asyncio.timeout(None)
    watch = asyncio.create_task(_cut_short(limit, stopped))
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
    finally:
        watch.cancel()


async def _cut_short(limit: asyncio.Timeout, stopped: asyncio.Event) -> None:
    await stopped.wait()
    limit.reschedule(asyncio.get_running_loop().time())
