"""The parent of several server processes: holds the port, starts, watches and replaces them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import structlog

from proxy.domain.errors import ConfigurationError
from proxy.runtime.process_link import Handler, ProcessLink, ended, start_process
from proxy.runtime.stop_signals import StopSignals
from proxy.runtime.supervised_task import cancel
from proxy.runtime.systemd_notify import ServiceManager
from proxy.settings import Settings
from proxy.telemetry.summed_metrics import Snapshot, Values, family, summed, totals_of
from proxy.web.server.inherited_sockets import SocketOwner

MODULE = "proxy.cli.server_process"
"""The program of a server process."""
WATCHDOG_S = 30.0
"""Time without a heartbeat after which a process is killed, as in systemd's unit."""
_START_S = 600.0
"""Time limit for the start: a schema upgrade may take minutes."""
_TICK_S = 1.0
_ABORT_S = 2.0
"""Time from SIGABRT, at which Python logs where the process hangs, to SIGKILL."""
_SNAPSHOT_S = 2.0
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 30.0
_RELAYED = ("purged", "progress")
"""Notices that are passed on to all other processes."""

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Child:
    slot: int
    process: subprocess.Popen[bytes]
    link: ProcessLink
    watch: asyncio.Task[None] | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it serves."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has ended."""
    code: int = 0
    lines: list[str] = field(default_factory=list)
    """What to print at the first start."""
    snapshot: Snapshot = field(default_factory=list)
    """The latest known metrics."""
    since: float = 0.0
    """When it began to serve, on the loop's clock."""
    silent_ticks: int = 0
    reason: str = ""
    """Why this parent ends it; empty if it does not."""


class ServerParent:
    """Runs ``server.processes`` processes. Nothing runs in this process but their supervision."""

    def __init__(
        self,
        settings: Settings,
        sockets: SocketOwner,
        *,
        reload: Callable[[], Settings],
        manager: ServiceManager,
        close_s: float,
        samples: bool = False,
        watchdog_s: float = WATCHDOG_S,
    ) -> None:
        """``sockets`` are bound, and closed when this parent stops.

        ``reload`` reads the settings again or raises ConfigurationError. ``close_s`` is the time
        that a process has to close everything after its last response. ``samples`` are imported by
        the first process.
        """
        self._settings = settings
        self._sockets = sockets
        self._reload = reload
        self._manager = manager
        self._close_s = close_s
        self._samples = samples
        self._watchdog_s = watchdog_s
        self._slots: list[_Child | None] = [None] * settings.process_count
        self._children: set[_Child] = set()
        """All that run, also those that are being replaced."""
        self._backoff_s = [_FIRST_BACKOFF_S] * len(self._slots)
        # Restarts that wait. The loop itself keeps only weak references to tasks.
        self._restarting: set[asyncio.Task[None]] = set()
        self._totals: Snapshot = []
        self._ends = Counter[str]({"crash": 0, "hang": 0, "reload": 0})
        self._stopping = False
        self._reloading = asyncio.Event()

    def reload(self) -> None:
        """Replace all processes, one by one, by new ones that have read the settings again."""
        self._reloading.set()

    @property
    def stop_s(self) -> float:
        """Maximum time from a signal to the end."""
        server = self._settings.server
        return server.lame_duck_s + server.drain_s + self._close_s

    async def run(self, signals: StopSignals, on_ready: Callable[[list[str]], None]) -> int:
        """Start all processes, and watch them until a signal; return the exit code.

        ``on_ready`` receives the lines to print when all serve.
        """
        stopped = asyncio.create_task(signals.received.wait())
        tasks: set[asyncio.Task[Any]] = {stopped}
        try:
            starting = asyncio.create_task(self._start_all())
            tasks.add(starting)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done() and (code := starting.result()):
                return code
            if not stopped.done():
                first = self._slots[0]
                on_ready([] if first is None else first.lines)
                self._manager.notify("READY=1")
                tasks |= {
                    asyncio.create_task(self._tick_forever()),
                    asyncio.create_task(self._reload_forever()),
                }
                # A task other than the first ends only by an error of this program.
                done, _ = await asyncio.wait(tasks - {starting}, return_when="FIRST_COMPLETED")
                if stopped not in done:
                    done.pop().result()
            return 0
        finally:
            self._stopping = True
            self._manager.notify("STOPPING=1")
            await cancel(*tasks, *self._restarting)
            await self._stop(signals.hurried)

    async def _start_all(self) -> int:
        """Start all processes; return the exit code of one that could not start, or 0."""
        # The first one upgrades the schema and generates keys; the others find both.
        groups = [[0], range(1, len(self._slots))]
        for group in groups:
            started = [await self._start(slot) for slot in group]
            for slot, child in zip(group, started, strict=True):
                self._slots[slot] = child
            codes = await asyncio.gather(*map(self._serves, started))
            if not all(code is None for code in codes):
                # A fault of the settings precedes others.
                found = [code for code in codes if code is not None]
                return 2 if 2 in found else 1  # noqa: PLR2004 - see `proxy.cli.base.fail`
            self._samples = False
        return 0

    async def _start(self, slot: int) -> _Child:
        """Start a process; raises OSError if the machine has no memory or descriptors for it."""
        ours, theirs = socket.socketpair()
        inherited = self._sockets.of(slot)
        order = {
            "parent": os.getpid(),
            "slot": slot,
            "count": len(self._slots),
            "link": theirs.fileno(),
            "sockets": inherited.numbers(),
            "port": self._sockets.port,
            "samples": self._samples and slot == 0,
            "watchdog_s": self._watchdog_s,
            # Only what was set: a newer program may have other defaults and fewer settings.
            "settings": self._settings.model_dump(mode="json", exclude_unset=True),
        }
        descriptors = [theirs.fileno(), *inherited.descriptors()]
        try:
            process = start_process(MODULE, orjson.dumps(order), descriptors)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        child = _Child(slot, process, await ProcessLink.open(ours))
        self._children.add(child)
        child.watch = asyncio.create_task(self._watch(child))
        return child

    async def _serves(self, child: _Child) -> int | None:
        """Return None when a new process serves, or its exit code if it has ended."""
        waits = [asyncio.create_task(one.wait()) for one in (child.ready, child.done)]
        try:
            await asyncio.wait(waits, timeout=_START_S, return_when="FIRST_COMPLETED")
        finally:
            await cancel(*waits)
        if child.ready.is_set():
            return None
        if not child.done.is_set():
            child.process.kill()
            await child.done.wait()
        return child.code

    async def _watch(self, child: _Child) -> None:
        handlers: dict[str, Handler] = {
            "ready": partial(self._on_ready, child),
            "alive": partial(self._on_alive, child),
            "last": partial(self._on_last, child),
            "metrics": self._on_metrics,
            **{kind: partial(self._relay, child, kind) for kind in _RELAYED},
        }
        messages = asyncio.create_task(child.link.run(handlers))
        code = await ended(child.process)
        # The messages that it has sent before its end.
        await asyncio.wait([messages])
        if error := messages.exception():
            log.error("process_messages_failed", slot=child.slot, exc_info=error)
        child.link.close()
        child.code = code
        self._children.discard(child)
        # Not earlier: until here a scrape adds the latest snapshot of the process itself.
        self._totals = summed([self._totals, totals_of(child.snapshot)])
        child.done.set()
        if self._slots[child.slot] is child and child.ready.is_set() and not self._stopping:
            self._restart(child)

    def _restart(self, child: _Child) -> None:
        slot, loop = child.slot, asyncio.get_running_loop()
        self._ends[child.reason or "crash"] += 1
        if loop.time() - child.since >= _MAX_BACKOFF_S:
            self._backoff_s[slot] = _FIRST_BACKOFF_S
        self._later(child)

    def _later(self, child: _Child) -> None:
        wait_s = self._next_wait_s(child.slot)
        log.error(
            "process_ended",
            slot=child.slot,
            pid=child.process.pid,
            cause=child.reason or _cause(child.code),
            restart_in_s=wait_s,
        )
        task = asyncio.create_task(self._start_again(child, wait_s))
        self._restarting.add(task)
        task.add_done_callback(self._restarting.discard)

    def _next_wait_s(self, slot: int) -> float:
        wait_s = self._backoff_s[slot]
        self._backoff_s[slot] = min(2 * wait_s, _MAX_BACKOFF_S)
        return wait_s

    async def _start_again(self, ended_child: _Child, wait_s: float) -> None:
        slot, child = ended_child.slot, None
        while child is None:
            await asyncio.sleep(wait_s)
            # A reload may have replaced it meanwhile.
            if self._slots[slot] is not ended_child:
                return
            try:
                child = self._slots[slot] = await self._start(slot)
            except OSError as error:
                wait_s = self._next_wait_s(slot)
                log.error(  # noqa: TRY400 - not a defect
                    "process_not_started", slot=slot, cause=str(error), restart_in_s=wait_s
                )
        if await self._serves(child) is not None and self._slots[slot] is child:
            self._later(child)

    async def _on_ready(self, child: _Child, lines: list[str]) -> None:
        child.lines, child.since = lines, asyncio.get_running_loop().time()
        child.ready.set()

    async def _on_alive(self, child: _Child, _: object) -> None:
        child.silent_ticks = 0

    async def _on_last(self, child: _Child, snapshot: Snapshot) -> None:
        child.snapshot = snapshot

    async def _relay(self, child: _Child, kind: str, value: object) -> None:
        for other in self._children:
            if other is not child and other.ready.is_set():
                other.link.send(kind, value)

    async def _on_metrics(self, _: object) -> Snapshot:
        """Return the metrics of all processes."""
        await asyncio.gather(*map(self._refresh, [*self._children]))
        serving = [child for child in self._children if child.ready.is_set()]
        # Read together after the last wait: the totals and the children fit each other.
        snapshots = [self._totals, *(child.snapshot for child in self._children)]
        ends: Values = {(("reason", one),): number for one, number in self._ends.items()}
        return [
            *summed(snapshots),
            family("gauge", "smartserve_processes", "Server processes.", {(): len(serving)}),
            family(
                "counter",
                "smartserve_process_restarts",
                "Server processes that were replaced.",
                ends,
            ),
        ]

    async def _refresh(self, child: _Child) -> None:
        # A process that does not respond keeps its latest snapshot.
        if child.ready.is_set():
            with suppress(TimeoutError):
                child.snapshot = await child.link.request("snapshot", timeout_s=_SNAPSHOT_S)

    async def _tick_forever(self) -> None:
        """Kill processes that hang, and feed systemd's watchdog while one serves."""
        feed_s, fed_s = self._manager.watchdog_s / 2, 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            # Ticks are counted, not seconds: if the whole machine was suspended, nothing hangs.
            for child in [*self._children]:
                if child.ready.is_set() and not child.reason:
                    child.silent_ticks += 1
                    if child.silent_ticks * _TICK_S > self._watchdog_s:
                        self._abort(child)
            fed_s += _TICK_S
            if feed_s and fed_s >= feed_s and any(map(_is_up, self._children)):
                self._manager.notify("WATCHDOG=1")
                fed_s = 0.0

    def _abort(self, child: _Child) -> None:
        child.reason = "hang"
        log.error(
            "process_hangs", slot=child.slot, pid=child.process.pid, silent_s=self._watchdog_s
        )
        _signal(child, signal.SIGABRT)
        # A stopped process reacts only to SIGKILL.
        asyncio.get_running_loop().call_later(_ABORT_S, _signal, child, signal.SIGKILL)

    async def _reload_forever(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            self._manager.notify("RELOADING=1")
            try:
                new = self._acceptable(await asyncio.to_thread(self._reload))
            except ConfigurationError as error:
                log.error("reload_refused", faults=error.faults)  # noqa: TRY400 - not a defect
            else:
                before, self._settings = self._settings, new
                if not await self._replace_all():
                    # Processes that crash later must not start with settings that have failed.
                    self._settings = before
            self._manager.notify("READY=1")

    def _acceptable(self, new: Settings) -> Settings:
        """Return the settings with the values that only a restart can change."""
        old = self._settings.server
        fixed = {"host": old.host, "port": old.port, "processes": len(self._slots)}
        found = {
            "host": new.server.host,
            "port": new.server.port,
            "processes": new.process_count,
        }
        if changed := [f"server.{name}" for name in fixed if fixed[name] != found[name]]:
            log.warning("restart_required", settings=changed, detail="they are not changed now")
        return new.model_copy(update={"server": new.server.model_copy(update=fixed)})

    async def _replace_all(self) -> bool:
        """Replace all processes; return False if a new one could not start."""
        for slot in range(len(self._slots)):
            try:
                new = await self._start(slot)
            except OSError as error:
                log.error("reload_failed", slot=slot, cause=str(error))  # noqa: TRY400 - no defect
                return False
            # It may also have ended just after it began to serve.
            if await self._serves(new) is not None or new.done.is_set():
                log.error("reload_failed", slot=slot, cause=_cause(new.code))
                return False
            old, self._slots[slot] = self._slots[slot], new
            self._backoff_s[slot] = _FIRST_BACKOFF_S
            if old is not None and not old.done.is_set():
                await self._retire(old)
        log.info("reloaded", processes=len(self._slots))
        return True

    async def _retire(self, old: _Child) -> None:
        """Have a process pass its connections on; return when it has ended."""
        old.reason = "reload"
        self._ends["reload"] += 1
        old.link.send("replaced")
        # Connections are passed on for `drain_s`; what remains is drained as long again.
        limit_s = 2 * self._settings.server.drain_s + self._close_s + _TICK_S
        await self._end([old], limit_s)

    async def _stop(self, hurried: asyncio.Event) -> None:
        """End all processes, at the latest after `stop_s`."""
        # The kernel refuses connections when the processes have closed these sockets as well.
        self._sockets.close()
        for child in self._children:
            _signal(child, signal.SIGINT if hurried.is_set() else signal.SIGTERM)
        hurry = asyncio.create_task(self._hurry(hurried))
        await self._end([*self._children], self.stop_s + _TICK_S)
        await cancel(hurry)

    async def _hurry(self, hurried: asyncio.Event) -> None:
        await hurried.wait()
        for child in self._children:
            _signal(child, signal.SIGINT)

    async def _end(self, children: Iterable[_Child], within_s: float) -> None:
        for child in children:
            # One that serves nobody yet, and cannot handle signals.
            if not child.ready.is_set():
                _signal(child, signal.SIGKILL)
        waits = [child.watch for child in children if child.watch is not None]
        if waits:
            _, late = await asyncio.wait(waits, timeout=within_s)
            for child in children:
                if child.watch in late:
                    log.error("process_killed", slot=child.slot, pid=child.process.pid)
                    _signal(child, signal.SIGKILL)
            await asyncio.wait(waits)


def _is_up(child: _Child) -> bool:
    return child.ready.is_set() and not child.reason


def _signal(child: _Child, number: signal.Signals) -> None:
    # Not after its end: the number of the process may be another's.
    if not child.done.is_set():
        child.process.send_signal(number)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
