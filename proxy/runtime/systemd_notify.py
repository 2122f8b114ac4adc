"""Notifies systemd of readiness and liveness (sd_notify(3)).

With ``Type=notify`` a service counts as started once it sends READY=1. With ``WatchdogSec=`` it is
killed and restarted if it sends no WATCHDOG=1 for that long. Outside systemd nothing is sent.
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
    """The service manager that started this process, if it expects notifications."""

    address: str = ""
    """A datagram socket: a path, or ``@`` and an abstract name. Empty: send nothing."""
    watchdog_s: float = 0.0
    """The service is killed after this time without a message; 0: never."""

    @classmethod
    def of(cls, environment: Mapping[str, str], *, pid: int | None = None) -> ServiceManager:
        """Read the variables that systemd sets; ignore those meant for another process.

        An invalid number is ignored: it must not prevent the start.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        intended_pid = environment.get("WATCHDOG_PID", "")
        if intended_pid not in ("", str(os.getpid() if pid is None else pid)):
            return cls(address)
        interval = environment.get("WATCHDOG_USEC", "")
        valid = interval.isascii() and interval.isdigit()
        return cls(address, int(interval) * _MICROSECONDS if valid else 0.0)

    def notify(self, state: str) -> None:
        """Send a state without waiting; a failure is logged."""
        if not self.address:
            return
        name = self.address
        # The name of an abstract socket begins with a null byte (unix(7)).
        address = f"\0{name[1:]}" if name.startswith("@") else name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                # Never block the event loop: the queue of the manager may be full.
                connection.settimeout(0)
                connection.sendto(state.encode(), address)
        except OSError as error:
            log.warning("systemd_notify_failed", state=state, error=error.strerror or str(error))


@asynccontextmanager
async def service_notifications(
    manager: ServiceManager,
    *,
    alive: Callable[[], bool],
    supervisor: TaskSupervisor = UNCOUNTED,
) -> AsyncIterator[None]:
    """Send READY=1 before the block, STOPPING=1 after it, and WATCHDOG=1 in between.

    The watchdog messages are sent from the event loop, twice per interval, while ``alive`` returns
    True. If the loop hangs or no worker runs, systemd restarts the service.
    """
    manager.notify("READY=1")

    async def feed() -> None:
        if alive():
            manager.notify("WATCHDOG=1")
        else:
            log.warning("watchdog_not_fed", detail="no worker process is running")

    try:
        if not (manager.address and manager.watchdog_s):
            yield
            return
        # Half the interval, as sd_watchdog_enabled(3) recommends.
        every_s = manager.watchdog_s / 2
        async with supervisor.running(BackgroundTask.WATCHDOG, feed, every_s=every_s):
            yield
    finally:
        manager.notify("STOPPING=1")
