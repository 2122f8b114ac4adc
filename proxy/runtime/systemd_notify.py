"""Supervision: what the service manager is told of this process (sd_notify(3)).

A service of systemd with ``Type=notify`` counts as started once it says so, and with
``WatchdogSec=`` is killed and started anew when it is not heard of for so long. Where nothing
listens, nothing is told.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor

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
async def supervised(
    manager: ServiceManager,
    *,
    alive: Callable[[], bool],
    supervisor: TaskSupervisor = UNCOUNTED,
) -> AsyncIterator[None]:
    """Ready for the length of the block, and stopping behind it, as the manager is told.

    Its watchdog is fed from the event loop, twice in each of its intervals, while ``alive``: a
    loop that hangs, or a server without workers, goes hungry.
    """
    manager.tell("READY=1")

    async def feed() -> None:
        if alive():
            manager.tell("WATCHDOG=1")
        else:
            log.warning("watchdog_not_fed", detail="no worker process is up")

    try:
        if not (manager.address and manager.watchdog_s):
            yield
            return
        every_s = manager.watchdog_s / 2
        async with supervisor.running(BackgroundTask.WATCHDOG, feed, every_s=every_s):
            yield
    finally:
        manager.tell("STOPPING=1")
