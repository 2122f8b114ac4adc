"""The parent of server processes, with processes that only speak its protocol."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.app import parent as parent_module
from proxy.app.parent import ServerParent
from proxy.domain.errors import ConfigurationError
from proxy.runtime.process_link import start_process
from proxy.runtime.stop_signals import StopSignals
from proxy.runtime.systemd_notify import ServiceManager
from proxy.settings import Settings
from proxy.web.server.inherited_sockets import SocketOwner
from tests.support.server import make_settings
from tests.support.waiting import eventually

STUB = """
import json, os, signal, socket, sys, threading, time

signal.signal(signal.SIGTERM, signal.SIG_DFL)
order = json.loads(sys.stdin.read())
place = os.path.dirname(__file__)
slot, pid = order["slot"], os.getpid()

def note(text):
    with open(os.path.join(place, "events"), "a") as file:
        file.write(f"{text} {slot} {pid}\\n")

try:
    with open(os.path.join(place, "mode")) as file:
        mode = file.read()
except FileNotFoundError:
    mode = ""
note("started")
with open(os.path.join(place, "settings"), "w") as file:
    json.dump(order["settings"], file)
if mode == "fails":
    sys.exit(2)
link = socket.socket(fileno=order["link"])
if mode == "ends":
    link.sendall(b'{"kind":"ready","value":[]}\\n{"kind":"rep')
    note("ended")
    os.kill(pid, signal.SIGKILL)
if mode == "babbles":
    link.sendall(b'{"kind":"ready","value":[]}\\n[]\\n')
    time.sleep(60)
lock = threading.Lock()

def send(**message):
    with lock:
        link.sendall(json.dumps(message).encode() + b"\\n")

def snapshot(count):
    sample = ["smartserve_requests_total", {}, count, None]
    family = {"name": "smartserve_requests", "documentation": "", "unit": ""}
    return [{**family, "type": "counter", "samples": [sample]}]

def live():
    while mode != "silent":
        send(kind="alive")
        time.sleep(0.05)

note("ready")
send(kind="ready", value=[f"slot {slot}"])
threading.Thread(target=live, daemon=True).start()
if slot == 0:
    send(kind="purged", value=7)
for line in link.makefile("rb"):
    message = json.loads(line)
    if message["kind"] == "snapshot":
        send(kind="reply", id=message["id"], value=snapshot(5))
    else:
        note(message["kind"])
    if message["kind"] == "replaced":
        send(kind="last", value=snapshot(6))
        sys.exit(0)
"""


class Notified(ServiceManager):
    """A service manager that records what it is sent."""

    states: list[str] = []  # noqa: RUF012 - one test at a time; the class is frozen

    def notify(self, state: str) -> None:
        """Record a state."""
        self.states.append(state)


class Parents:
    """A parent that runs, what it prints, and what its processes note."""

    def __init__(self, parent: ServerParent, place: Path) -> None:
        self.parent = parent
        self._place = place
        self.signals = StopSignals()
        self.lines: list[str] = []
        self.code = asyncio.get_running_loop().create_task(
            parent.run(self.signals, self.lines.extend)
        )

    def events(self, kind: str = "") -> list[tuple[str, int, int]]:
        """Return kind, slot and process id of all events, or of those of a kind."""
        file = self._place / "events"
        lines = file.read_text().splitlines() if file.exists() else []
        found = [(name, int(slot), int(pid)) for name, slot, pid in map(str.split, lines)]
        return [event for event in found if kind in ("", event[0])]

    def more_than(self, starts: int) -> bool:
        """Return whether more processes than these have become ready."""
        return len(self.events("ready")) > starts

    def mode(self, mode: str) -> None:
        """Set what the processes do that start from now on."""
        (self._place / "mode").write_text(mode)

    async def metric(self, name: str, **labels: str) -> float:
        """Return a sample of the sum of all metrics."""
        for one in await self.parent._on_metrics(None):
            for sample in one["samples"]:
                if sample[:2] == [name, labels]:
                    return float(sample[2])
        raise AssertionError(name)

    async def serving(self, processes: int = 2) -> None:
        """Return when so many processes serve."""

        async def all_serve() -> bool:
            return await self.metric("smartserve_processes") == processes

        await eventually(all_serve)


@asynccontextmanager
async def running(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    reload: Callable[[], Settings] | None = None,
    mode: str = "",
    **options: Any,
) -> AsyncIterator[Parents]:
    """Run a parent of two processes while the block runs."""
    (place / "stub_process.py").write_text(STUB)
    (place / "mode").write_text(mode)
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setattr(parent_module, "MODULE", "stub_process")
    Notified.states.clear()
    settings = make_settings(place / "data", server={"processes": 2, "port": 0, "drain_s": 1})
    sockets = SocketOwner()
    await sockets.bind(settings.server, 2)
    with closing(sockets):
        parent = ServerParent(
            settings,
            sockets,
            reload=reload or (lambda: settings),
            manager=Notified(),
            close_s=5,
            **options,
        )
        parents = Parents(parent, place)
        try:
            yield parents
        finally:
            parents.signals.received.set()
            await parents.code


async def test_the_first_process_serves_before_the_others_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as parents:
        await eventually(lambda: parents.lines)
        assert parents.lines == ["slot 0"]
        events = [(kind, slot) for kind, slot, _ in parents.events() if kind != "purged"]
        assert events == [("started", 0), ("ready", 0), ("started", 1), ("ready", 1)]
        assert Notified.states == ["READY=1"]
    assert parents.code.result() == 0
    assert Notified.states == ["READY=1", "STOPPING=1"]
    assert not any(map(_runs, (pid for _, _, pid in parents.events())))


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists()


async def test_a_process_that_cannot_start_ends_all_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch, mode="fails") as parents:
        assert await parents.code == 2
    assert parents.lines == []
    assert "READY=1" not in Notified.states


async def test_a_process_that_ends_is_started_again_after_a_time_that_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch) as parents:
            await eventually(lambda: parents.lines)
            for _ in range(2):
                started = parents.events("ready")
                os.kill(started[-1][2], signal.SIGKILL)
                await eventually(partial(parents.more_than, len(started)))
                await parents.serving()
            assert await parents.metric("smartserve_process_restarts_total", reason="crash") == 2
    ended = [entry for entry in logs if entry["event"] == "process_ended"]
    assert [entry["restart_in_s"] for entry in ended] == [0.1, 0.2]
    assert {(entry["slot"], entry["cause"]) for entry in ended} == {(1, "SIGKILL")}


async def test_the_counters_of_a_process_that_has_ended_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as parents:
        await eventually(lambda: parents.lines)
        assert await parents.metric("smartserve_requests_total") == 10
        os.kill(parents.events("ready")[-1][2], signal.SIGKILL)
        await eventually(lambda: len(parents.events("ready")) == 3)
        await parents.serving()
        # Two processes that run, and what was last known of the third.
        assert await parents.metric("smartserve_requests_total") == 15


async def test_a_process_without_a_sign_of_life_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent_module, "_TICK_S", 0.05)
    async with running(tmp_path, monkeypatch, mode="silent", watchdog_s=0.5) as parents:
        await eventually(lambda: parents.lines)
        parents.mode("")
        await eventually(lambda: len(parents.events("ready")) >= 4)
        assert await parents.metric("smartserve_process_restarts_total", reason="hang") >= 2


async def test_a_reload_starts_each_new_process_before_it_retires_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as parents:
        await eventually(lambda: parents.lines)
        first = len(parents.events())
        parents.parent.reload()
        await eventually(lambda: len(parents.events("replaced")) == 2)
        await eventually(lambda: Notified.states == ["READY=1", "RELOADING=1", "READY=1"])
        events = [event[:2] for event in parents.events()[first:] if event[0] != "purged"]
        assert events == [
            *(("started", 0), ("ready", 0), ("replaced", 0)),
            *(("started", 1), ("ready", 1), ("replaced", 1)),
        ]
        # 2 x 6 of those that were replaced, 2 x 5 of those that run.
        assert await parents.metric("smartserve_requests_total") == 22
        assert await parents.metric("smartserve_process_restarts_total", reason="reload") == 2
        assert await parents.metric("smartserve_process_restarts_total", reason="crash") == 0


async def test_a_new_process_that_fails_ends_the_reload_and_the_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch) as parents:
            await eventually(lambda: parents.lines)
            parents.mode("fails")
            parents.parent.reload()
            await eventually(lambda: any(one["event"] == "reload_failed" for one in logs))
            await parents.serving()
            assert parents.events("replaced") == []


async def test_a_new_process_that_ends_just_after_its_start_ends_the_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves = ServerParent._serves

    async def late(parent: ServerParent, child: Any) -> int | None:
        """Return after its end has been noticed."""
        code = await serves(parent, child)
        if code is None and len(parent._children) > 2:
            await child.done.wait()
        return code

    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch) as parents:
            await eventually(lambda: parents.lines)
            monkeypatch.setattr(ServerParent, "_serves", late)
            parents.mode("ends")
            parents.parent.reload()
            await eventually(lambda: any(one["event"] == "reload_failed" for one in logs))
            await parents.serving()
            assert parents.events("replaced") == []


async def test_a_process_that_ends_within_a_message_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as parents:
        await eventually(lambda: parents.lines)
        parents.mode("ends")
        os.kill(parents.events("ready")[-1][2], signal.SIGKILL)
        await eventually(lambda: len(parents.events("ended")) >= 2)
        parents.mode("")
        await parents.serving()


async def test_a_process_that_sends_what_is_no_message_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent_module, "_TICK_S", 0.05)
    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch, watchdog_s=0.5) as parents:
            await eventually(lambda: parents.lines)
            parents.mode("babbles")
            os.kill(parents.events("ready")[-1][2], signal.SIGKILL)
            await eventually(lambda: any(one["event"] == "process_hangs" for one in logs))
            parents.mode("")
            ready = len(parents.events("ready"))
            await eventually(partial(parents.more_than, ready))
            await parents.serving()
    assert "process_messages_failed" in [one["event"] for one in logs]


class Exhausted:
    """Starts processes, but not the next ones, as a machine without memory."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self, *arguments: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return start_process(*arguments)


async def test_a_process_that_the_machine_cannot_start_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch) as parents:
            await eventually(lambda: parents.lines)
            monkeypatch.setattr(parent_module, "start_process", Exhausted(2))
            ready = parents.events("ready")
            os.kill(ready[-1][2], signal.SIGKILL)
            await eventually(partial(parents.more_than, len(ready)))
            await parents.serving()
    failed = [entry for entry in logs if entry["event"] == "process_not_started"]
    assert [entry["restart_in_s"] for entry in failed] == [0.2, 0.4]
    assert failed[0]["cause"] == "[Errno 12] Cannot allocate memory"


async def test_a_reload_for_which_the_machine_has_no_memory_leaves_the_old_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch) as parents:
            await eventually(lambda: parents.lines)
            monkeypatch.setattr(parent_module, "start_process", Exhausted(1))
            parents.parent.reload()
            await eventually(lambda: any(one["event"] == "reload_failed" for one in logs))
            await parents.serving()
            assert parents.events("replaced") == []
            # The next one replaces them.
            parents.parent.reload()
            await eventually(lambda: len(parents.events("replaced")) == 2)


async def test_after_a_reload_that_failed_processes_start_with_the_old_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = make_settings(tmp_path / "data", server={"processes": 2, "port": 0, "drain_s": 2})
    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch, reload=lambda: new) as parents:
            await eventually(lambda: parents.lines)
            ready = parents.events("ready")
            parents.mode("fails")
            parents.parent.reload()
            await eventually(lambda: any(one["event"] == "reload_failed" for one in logs))
            parents.mode("")
            os.kill(ready[0][2], signal.SIGKILL)
            await eventually(partial(parents.more_than, len(ready)))
            settings = json.loads((tmp_path / "settings").read_text())
    assert settings["server"]["drain_s"] == 1


async def test_settings_that_are_refused_replace_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Settings:
        raise ConfigurationError(["log.level: must be one of many"])

    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch, reload=refused) as parents:
            await eventually(lambda: parents.lines)
            parents.parent.reload()
            await eventually(lambda: Notified.states.count("READY=1") == 2)
            assert len(parents.events("started")) == 2
    (entry,) = [one for one in logs if one["event"] == "reload_refused"]
    assert entry["faults"] == ("log.level: must be one of many",)


async def test_what_only_a_restart_can_change_is_named_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = make_settings(tmp_path / "data", server={"processes": 3, "port": 7, "drain_s": 2})
    with capture_logs() as logs:
        async with running(tmp_path, monkeypatch, reload=lambda: new) as parents:
            await eventually(lambda: parents.lines)
            parents.parent.reload()
            await eventually(lambda: len(parents.events("replaced")) == 2)
            server = parents.parent._settings.server
    assert (server.processes, server.port, server.drain_s) == (2, 0, 2)
    (entry,) = [one for one in logs if one["event"] == "restart_required"]
    assert entry["settings"] == ["server.port", "server.processes"]


async def test_notices_reach_the_other_processes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as parents:
        await eventually(lambda: parents.lines)
        os.kill(parents.events("ready")[0][2], signal.SIGKILL)
        # The new process of the first slot sends one when the other serves.
        await eventually(lambda: parents.events("purged"))
        assert {slot for _, slot, _ in parents.events("purged")} == {1}


async def test_the_order_of_a_process_has_only_the_settings_that_were_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[dict[str, Any]] = []

    def recording(module: str, order: bytes, descriptors: list[int]) -> object:
        orders.append(json.loads(order))
        return start_process(module, order, descriptors)

    monkeypatch.setattr(parent_module, "start_process", recording)
    async with running(tmp_path, monkeypatch, samples=True) as parents:
        await eventually(lambda: parents.lines)
    assert [order["samples"] for order in orders] == [True, False]
    assert set(orders[0]["settings"]["server"]) == {"processes", "port", "drain_s"}
    assert orders[0]["port"] > 0
