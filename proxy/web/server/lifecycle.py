"""The server's life: listen, serve until told to stop, finish what runs, go."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from proxy.domain.errors import ConfigurationError
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import ServerSettings
from proxy.web.handlers.health import HealthHandler
from proxy.web.server.runner import ServerRunner

_LAG_INTERVAL_S = 0.5
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
            await runner.site(settings.host, settings.port).start()
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


@asynccontextmanager
async def lag_watch(
    note: Callable[[float], None], supervisor: TaskSupervisor = UNCOUNTED
) -> AsyncIterator[None]:
    """Call ``note`` every 0.5 s with the seconds by which a timer of the loop ran late."""

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + _LAG_INTERVAL_S
        await asyncio.sleep(_LAG_INTERVAL_S)
        note(max(0.0, loop.time() - due))

    async with supervisor.running(BackgroundTask.LOOP_LAG, watch, every_s=0):
        yield
