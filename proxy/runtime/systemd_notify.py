"""Supervision: what the service manager is told of this process (sd_notify(3)).

A service of systemd with ``Type=notify`` counts as started once it says so, and with
``WatchdogSec=`` is killed and started anew when it is not heard of for so long. Where nothing
listens, nothing is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

_MICROSECONDS = 1e-6

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Who started this process, where that wants to hear from it."""

    address: str = ""
    """A datagram socket: a path, or a name with ``@`` before it; empty: nobody listens."""
    watchdog_s: float = 0.0
    """For how long it bears to hear nothing; 0: for ever."""

    @classmethod
    def of(cls, environment: Mapping[str, str], *, pid: int | None = None) -> ServiceManager:
        """As the variables say; what is meant for another process than ``pid`` is left out.

        A number that is none counts as not given: that is no reason not to serve.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        meant_for = environment.get("WATCHDOG_PID", "")
        if meant_for not in ("", str(os.getpid() if pid is None else pid)):
            return cls(address)
        interval = environment.get("WATCHDOG_USEC", "")
        readable = interval.isascii() and interval.isdigit()
        return cls(address, int(interval) * _MICROSECONDS if readable else 0.0)

    def tell(self, state: str) -> None:
        """Tell it, without waiting; that it does not hear is logged, and no more."""
        if not self.address:
            return
        name = self.address
        where = f"\0{name[1:]}" if name.startswith("@") else name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as post:
                post.settimeout(0)
                post.sendto(state.encode(), where)
        except OSError as error:
            log.warning("service_manager_deaf", state=state, error=error.strerror or str(error))


@asynccontextmanager
async def supervised(manager: ServiceManager, *, alive: Callable[[], bool]) -> AsyncIterator[None]:
    """Ready for the length of the block, and stopping behind it, as the manager is told.

    Its watchdog is fed from the event loop, twice in each of its intervals, while ``alive``: a
    loop that hangs, or a server without workers, goes hungry.
    """
    manager.tell("READY=1")
    feeding = asyncio.create_task(_feed(manager, alive))
    try:
        yield
    finally:
        manager.tell("STOPPING=1")
        feeding.cancel()
        with suppress(asyncio.CancelledError):
            await feeding


async def _feed(manager: ServiceManager, alive: Callable[[], bool]) -> None:
    if not manager.address or not manager.watchdog_s:
        return
    while True:
        if alive():
            manager.tell("WATCHDOG=1")
        else:
            log.warning("watchdog_not_fed", detail="no worker process is up")
        await asyncio.sleep(manager.watchdog_s / 2)
