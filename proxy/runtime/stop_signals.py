"""The signals that stop a process, and blocks that end at the first one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog

_STDIN = 0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StopSignals:
    """The signals that end the process."""

    received: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first of SIGTERM and SIGINT."""
    hurried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by SIGINT, and by a second signal: somebody waits for the end."""

    @classmethod
    def listen(
        cls,
        on_first: Callable[[], None] = lambda: None,
        *,
        reload: Callable[[], object] | None = None,
    ) -> StopSignals:
        """Handle the signals from now on; ``on_first`` is called at the first one.

        At a terminal SIGHUP means that the terminal was closed, and stops the server. For a service
        it means "reload the settings": ``reload`` is called. Without it, that needs a restart: a
        warning is logged and serving continues.
        """
        signals = cls()
        loop = asyncio.get_running_loop()

        def stop(number: signal.Signals) -> None:
            if number != signal.SIGTERM or signals.received.is_set():
                signals.hurried.set()
            if not signals.received.is_set():
                signals.received.set()
                on_first()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        again = reload or partial(
            log.warning,
            "hangup_ignored",
            detail="settings are read only at the start; restart to apply changes",
        )
        hangup = partial(stop, signal.SIGHUP)
        loop.add_signal_handler(signal.SIGHUP, hangup if os.isatty(_STDIN) else again)
        return signals


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
