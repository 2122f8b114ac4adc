"""The network of the cluster: an event loop for proxies, and a host of its own for one server."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")

HERE = "127.0.0.1"
# Of the block for tests of network devices (RFC 2544), which no real network uses.
_NEAR, _FAR = "198.18.7.1", "198.18.7.2"
# No device has it: packets to it are lost without a word.
_NOBODY = "02:00:00:00:00:01"


class LoopThread:
    """An event loop in a thread: what runs in it goes on while the test is busy."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the loop; return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """Stop the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one interface. Processes in it reach this machine at `here`."""

    name: str
    interface: str
    here: str = _NEAR
    address: str = _FAR

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs another one there."""
        return ("ip", "netns", "exec", self.name)

    def cut_off(self) -> None:
        """Lose all packets in both directions: no connection is closed, none can be opened."""
        lost = ("lladdr", _NOBODY, "nud", "permanent")
        _ip("neigh", "replace", self.address, *lost, "dev", self.interface)
        _ip("-n", self.name, "neigh", "replace", self.here, *lost, "dev", "eth0")

    def connect(self) -> None:
        """End `cut_off`."""
        _ip("neigh", "del", self.address, "dev", self.interface)
        _ip("-n", self.name, "neigh", "del", self.here, "dev", "eth0")


@contextmanager
def host() -> Iterator[Host | None]:
    """Make a network namespace for the length of the block; None if that is not permitted."""
    name = f"smartserve-{os.getpid()}"
    made = Host(name, f"ss{os.getpid()}")
    if shutil.which("ip") is None or os.geteuid() != 0:
        yield None
        return
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        # A container without CAP_SYS_ADMIN.
        yield None
        return
    try:
        _ip("link", "add", made.interface, "type", "veth", "peer", "eth0", "netns", name)
        _ip("addr", "add", f"{made.here}/30", "dev", made.interface)
        _ip("link", "set", made.interface, "up")
        _ip("-n", name, "addr", "add", f"{made.address}/30", "dev", "eth0")
        for one in ("eth0", "lo"):
            _ip("-n", name, "link", "set", one, "up")
        yield made
    finally:
        # Its interface, and the other end here, go with it.
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
