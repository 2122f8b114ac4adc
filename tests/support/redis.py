"""A private Redis for tests: a real server on a free port, without persistence."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.support.pausing import PausableServer
from tests.support.ports import free_port
from tests.support.unavailable import unavailable

_TIMEOUT_S = 60.0


@contextmanager
def private_redis() -> Iterator[RedisServer]:
    """Run a server for the scope of a fixture; each xdist worker has its own.

    If Redis is not installed, the test is skipped, or fails if ``CI`` is set.
    """
    if shutil.which("redis-server") is None:
        unavailable("redis-server not installed: nothing is tested against Redis")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


class RedisServer(PausableServer):
    """One server; the port stays the same after a restart, and all keys are lost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and wait until the server answers; nothing if it runs."""
        if self.running:
            return
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "no"]
        self._run(command, answers=self._answers, timeout_s=_TIMEOUT_S)

    def execute(self, *words: str | bytes | float) -> Any:
        """Run a command; return its reply, in which strings are bytes."""
        with redis.Redis(port=self.port, protocol=2, socket_timeout=_TIMEOUT_S) as client:
            return client.execute_command(*words)

    def _answers(self) -> bool:
        try:
            return bool(self.execute("PING"))
        except redis.RedisError:
            return False
