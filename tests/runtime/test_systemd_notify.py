"""What a service manager hears, on real sockets and from a real server."""

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
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0)

    async def hear(self, within_s: float = 30.0) -> str:
        """The next that is told."""
        async with asyncio.timeout(within_s):
            told = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return told.decode()

    def heard(self) -> list[str]:
        """All that was told and not heard yet."""
        told = []
        while True:
            try:
                told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    """One that listens under a path of the file system, and one under an abstract name."""
    abstract = f"@smartserve-test-{os.getpid()}"
    one = Listener(str(tmp_path / "notify") if request.param == "path" else abstract)
    yield one
    one.close()


async def test_it_is_told_of_the_start_and_of_the_end(listener: Listener) -> None:
    async with service_notifications(ServiceManager(listener.address), alive=lambda: True):
        assert listener.heard() == ["READY=1"]
    assert listener.heard() == ["STOPPING=1"]


async def test_its_watchdog_is_fed_twice_in_each_interval(listener: Listener) -> None:
    loop = asyncio.get_running_loop()
    async with service_notifications(ServiceManager(listener.address, 0.1), alive=lambda: True):
        began = loop.time()
        told = [await listener.hear() for _ in range(5)]
        assert told == ["READY=1", *["WATCHDOG=1"] * 4]
        assert loop.time() - began >= 0.15


async def test_without_workers_its_watchdog_goes_hungry(listener: Listener) -> None:
    asked = asyncio.Event()

    def alive() -> bool:
        asked.set()
        return False

    with capture_logs() as logs:
        async with service_notifications(ServiceManager(listener.address, 0.02), alive=alive):
            await asked.wait()
        assert listener.heard() == ["READY=1", "STOPPING=1"]
    assert logs[0]["event"] == "watchdog_not_fed"


async def test_a_manager_that_does_not_hear_stops_nobody(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with service_notifications(
            ServiceManager(str(tmp_path / "gone"), 1.0), alive=lambda: True
        ):
            pass
    assert {line["event"] for line in logs} == {"systemd_notify_failed"}


async def test_a_manager_whose_queue_is_full_is_not_waited_for(listener: Listener) -> None:
    manager = ServiceManager(listener.address)
    with capture_logs() as logs:
        while not logs:
            manager.notify("WATCHDOG=1")
    assert logs[0]["event"] == "systemd_notify_failed"


def test_where_nothing_listens_nothing_is_told() -> None:
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
def test_the_interval_is_that_of_this_process(variables: dict[str, str], watchdog_s: float) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": "/run/notify", **variables}, pid=7)
    assert manager == ServiceManager("/run/notify", watchdog_s)


async def test_a_server_that_hangs_is_not_heard_of_and_one_that_stops_says_so(
    data_dir: Path, tmp_path: Path
) -> None:
    listener = Listener(str(tmp_path / "notify"))
    told = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": str(int(_WATCHDOG_S * 1e6))}
    server = Server(data_dir, {}, extra=told)
    try:
        await server.start()
        assert await listener.hear() == "READY=1"
        await server.until_ready()
        assert await listener.hear() == "WATCHDOG=1"
        server.signal(signal.SIGSTOP)
        listener.heard()
        with pytest.raises(TimeoutError):
            await listener.hear(within_s=2 * _WATCHDOG_S)
        server.signal(signal.SIGCONT)
        assert await listener.hear() == "WATCHDOG=1"
    finally:
        assert await server.stop() == 0
    assert listener.heard()[-1] == "STOPPING=1"
    listener.close()


async def test_an_unforeseen_error_does_not_end_the_watchdog_messages(listener: Listener) -> None:
    answers, restarts = count(1), Restarts()

    def alive() -> bool:
        if next(answers) == 1:
            raise LookupError("unforeseen")
        return True

    manager = ServiceManager(listener.address, 1.0)
    async with service_notifications(manager, alive=alive, supervisor=restarts.supervisor):
        await eventually(lambda: "WATCHDOG=1" in listener.heard())
    assert restarts.tasks == [BackgroundTask.WATCHDOG]
