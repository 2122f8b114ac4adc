"""A private Redis for tests: a real server on a free port, without persistence."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

_START_TIMEOUT_S = 60.0


@contextmanager
def private_redis() -> Iterator[RedisServer]:
    """Run a server for the scope of a fixture; each xdist worker has its own.

    If Redis is not installed, the test is skipped, or fails if ``CI`` is set.
    """
    if shutil.which("redis-server") is None:
        reason = "redis-server not installed: nothing is tested against Redis"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


class RedisServer:
    """One server; the port stays the same after a restart, and all keys are lost."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Return whether its process exists, paused or not."""
        return self._process is not None

    def start(self) -> None:
        """Start, and wait until the server answers; nothing if it runs."""
        if self.running:
            return
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "no"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((self._folder / "log").read_text(errors="replace"))
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it with SIGKILL, paused or not; nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_START_TIMEOUT_S)
            self._process = None

    def pause(self) -> None:
        """Pause it with SIGSTOP: connections stay open, new ones too, and get no answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{self._process.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)

    def resume(self) -> None:
        """Continue after `pause`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def execute(self, *words: str | bytes | float) -> Any:
        """Run a command; return its reply, in which strings are bytes."""
        with redis.Redis(port=self.port, protocol=2, socket_timeout=_START_TIMEOUT_S) as client:
            return client.execute_command(*words)

    def _answers(self) -> bool:
        try:
            return bool(self.execute("PING"))
        except redis.RedisError:
            return False
