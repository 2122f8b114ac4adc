"""Notifications to systemd, on real sockets and from a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.runtime.supervised_task import BackgroundTask
from proxy.runtime.systemd_notify import ServiceManager, service_notifications
from tests.faults.server import Server
from tests.support.restarts import Restarts
from tests.support.waiting import eventually

_WATCHDOG_S = 0.4


class Listener:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0)

    async def receive(self, within_s: float = 30.0) -> str:
        """Return the next message."""
        async with asyncio.timeout(within_s):
            messages = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return messages.decode()

    def received(self) -> list[str]:
        """Return all messages that were not received yet."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    """Return a listener on a path, and one on an abstract name."""
    abstract = f"@smartserve-test-{os.getpid()}"
    one = Listener(str(tmp_path / "notify") if request.param == "path" else abstract)
    yield one
    one.close()


async def test_the_start_and_the_end_are_notified(listener: Listener) -> None:
    async with service_notifications(ServiceManager(listener.address), alive=lambda: True):
        assert listener.received() == ["READY=1"]
    assert listener.received() == ["STOPPING=1"]


async def test_the_watchdog_gets_two_messages_per_interval(listener: Listener) -> None:
    loop = asyncio.get_running_loop()
    async with service_notifications(ServiceManager(listener.address, 0.1), alive=lambda: True):
        began = loop.time()
        messages = [await listener.receive() for _ in range(5)]
        assert messages == ["READY=1", *["WATCHDOG=1"] * 4]
        assert loop.time() - began >= 0.15


async def test_without_workers_the_watchdog_gets_no_message(listener: Listener) -> None:
    checked = asyncio.Event()

    def alive() -> bool:
        checked.set()
        return False

    with capture_logs() as logs:
        async with service_notifications(ServiceManager(listener.address, 0.02), alive=alive):
            await checked.wait()
        assert listener.received() == ["READY=1", "STOPPING=1"]
    assert logs[0]["event"] == "watchdog_not_fed"


async def test_a_manager_that_does_not_listen_is_logged(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with service_notifications(
            ServiceManager(str(tmp_path / "gone"), 1.0), alive=lambda: True
        ):
            pass
    assert {line["event"] for line in logs} == {"systemd_notify_failed"}


async def test_a_full_queue_of_the_manager_does_not_block(listener: Listener) -> None:
    manager = ServiceManager(listener.address)
    with capture_logs() as logs:
        while not logs:
            manager.notify("WATCHDOG=1")
    assert logs[0]["event"] == "systemd_notify_failed"


def test_outside_systemd_nothing_is_sent() -> None:
    assert ServiceManager.of({}) == ServiceManager()
    ServiceManager().notify("READY=1")


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
        ({}, 0.0),
    ],
)
def test_an_interval_meant_for_another_process_is_ignored(
    variables: dict[str, str], watchdog_s: float
) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": "/run/notify", **variables}, pid=7)
    assert manager == ServiceManager("/run/notify", watchdog_s)


@pytest.mark.slow
async def test_a_server_that_hangs_sends_nothing_and_one_that_stops_says_so(
    data_dir: Path, tmp_path: Path
) -> None:
    listener = Listener(str(tmp_path / "notify"))
    environment = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": str(int(_WATCHDOG_S * 1e6))}
    server = Server(data_dir, {}, extra=environment)
    try:
        await server.start()
        assert await listener.receive() == "READY=1"
        await server.until_ready()
        assert await listener.receive() == "WATCHDOG=1"
        server.signal(signal.SIGSTOP)
        listener.received()
        with pytest.raises(TimeoutError):
            await listener.receive(within_s=2 * _WATCHDOG_S)
        server.signal(signal.SIGCONT)
        assert await listener.receive() == "WATCHDOG=1"
    finally:
        assert await server.stop() == 0
    assert listener.received()[-1] == "STOPPING=1"
    listener.close()


async def test_an_unforeseen_error_does_not_end_the_watchdog_messages(listener: Listener) -> None:
    answers, restarts = count(1), Restarts()

    def alive() -> bool:
        if next(answers) == 1:
            raise LookupError("unforeseen")
        return True

    manager = ServiceManager(listener.address, 1.0)
    async with service_notifications(manager, alive=alive, supervisor=restarts.supervisor):
        await eventually(lambda: "WATCHDOG=1" in listener.received())
    assert restarts.tasks == [BackgroundTask.WATCHDOG]
