"""A server process that has a parent: its part of the machine, and its connection to the parent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import structlog

from proxy.runtime.process_link import ProcessLink
from proxy.runtime.supervised_task import ONCE_PER_MACHINE, BackgroundTask, cancel
from proxy.runtime.systemd_notify import ServiceManager
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.summed_metrics import SummedCollector, snapshot_of
from proxy.web.server.inherited_sockets import InheritedSockets

_METRICS_S = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Parent(ServiceManager):
    """The parent in the role that systemd has for a server without one."""

    link: ProcessLink = field(kw_only=True)

    def notify(self, state: str) -> None:
        """Send a heartbeat; `ServerProcess.ready` reports the start."""
        if state == "WATCHDOG=1":
            self.link.send("alive")


class ServerProcess:
    """One of several server processes of a machine."""

    def __init__(self, order: Mapping[str, Any], link: ProcessLink) -> None:
        """``order`` comes from `ServerParent`."""
        self.sockets = InheritedSockets.of(order["sockets"])
        self.samples = bool(order["samples"])
        self.link = link
        self.manager: ServiceManager = _Parent("parent", order["watchdog_s"], link=link)
        self.replaced = False
        """Whether the connections have to be passed on at the end."""
        first = order["slot"] == 0
        self.elsewhere: frozenset[BackgroundTask] = frozenset() if first else ONCE_PER_MACHINE
        """Background tasks that the first process runs."""
        self._metrics: Metrics | None = None
        self._messages: asyncio.Task[None] | None = None
        self._handlers: dict[str, Callable[[Any], Awaitable[Any]]] = {"snapshot": self._snapshot}

    @classmethod
    async def of(cls, order: Mapping[str, Any]) -> Self:
        """Open the connection to the parent."""
        end = socket.socket(fileno=order["link"])
        end.set_inheritable(False)
        return cls(order, await ProcessLink.open(end))

    def on(self, kind: str, handler: Callable[[Any], Awaitable[Any]]) -> None:
        """Handle a message of this kind; call it before `start`."""
        self._handlers[kind] = handler

    def notify_others(self, kind: str, value: object = None) -> None:
        """Send a notice to the other processes, if the parent passes on notices of this kind."""
        if not self.link.send(kind, value):
            log.warning("process_notice_dropped", kind=kind)

    def announce_change(self) -> None:
        """Have the other processes read the table of purges and the changed rows now."""
        self.notify_others("purged")

    def start(self) -> None:
        """Handle the messages of the parent from now on, until `close`."""
        self._messages = asyncio.create_task(self.link.run(self._handlers))

    def ready(self, metrics: Metrics, lines: list[str]) -> None:
        """Report that this process serves; the parent prints ``lines`` at its first start."""
        self._metrics = metrics
        self.link.send("ready", lines)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all processes, and their media type; see `Metrics.exposition`.

        Raises:
            TimeoutError: the parent does not respond. The figures of this process alone would look
                like counters that went backwards.
        """
        summed = await self.link.request("metrics", timeout_s=_METRICS_S)
        return (self._metrics or Metrics()).exposition(accept, of=SummedCollector(summed))

    async def close(self) -> None:
        """Send the last figures, and close the connection."""
        if self._metrics is not None:
            self.link.send("last", await self._snapshot(None))
        if self._messages is not None:
            await cancel(self._messages)
        await self.link.flush()
        self.link.close()

    async def _snapshot(self, _: object) -> object:
        return snapshot_of(self._metrics.registry.collect()) if self._metrics else []
