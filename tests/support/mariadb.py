"""A private MariaDB for tests: a real server on a free port, with data in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PROGRAMS = ("mariadbd", "mariadb-install-db", "mariadb")
_START_TIMEOUT_S = 20.0
_SMALL = (
    "--innodb-buffer-pool-size=8M",
    "--innodb-log-file-size=4M",
    # With 0, what was committed in the last second would be lost when a test kills the server.
    "--innodb-flush-log-at-trx-commit=2",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--max-connections=60",
    "--performance-schema=OFF",
    "--skip-name-resolve",
    # Not UTC, to reveal code that relies on the server's time zone.
    "--default-time-zone=+05:00",
)


@contextmanager
def private_mariadb() -> Iterator[MariaDB]:
    """Run a server for the scope of a fixture; each xdist worker has its own.

    If MariaDB is not installed, the test is skipped, or fails if ``CI`` is set.
    """
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        _unavailable(f"{', '.join(missing)} not installed: nothing is tested against MariaDB")
    with tempfile.TemporaryDirectory(prefix="mariadb-") as folder:
        server = MariaDB(Path(folder))
        server.install()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _unavailable(reason: str) -> None:
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(reason)
    pytest.skip(reason)


class MariaDB:
    """One server; port and data stay the same after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "s"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def running(self) -> bool:
        """Return whether its process exists, paused or not."""
        return self._process is not None

    def install(self) -> None:
        """Create the system tables, once, before the first start."""
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={self._folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *_as_root(),
            ],
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        """Start, and wait until the server answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "mariadbd",
                    "--no-defaults",
                    f"--datadir={self._folder / 'data'}",
                    f"--socket={self._socket}",
                    f"--port={self.port}",
                    "--bind-address=127.0.0.1",
                    *_SMALL,
                    *_as_root(),
                ],
                stdout=log,
                stderr=log,
            )
        self._wait_until_it_greets()

    def stop(self) -> None:
        """Stop it in order."""
        self.resume()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Pause it with SIGSTOP: connections stay open and get no answer."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        state = Path(f"/proc/{self._process.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._signal(signal.SIGCONT)

    def execute(self, statements: str, *, database: str = "") -> str:
        """Run statements with MariaDB's own client; return the tab-separated result."""
        return subprocess.run(
            [
                "mariadb",
                "--no-defaults",
                f"--socket={self._socket}",
                "--user=root",
                "--skip-column-names",
                "--default-character-set=utf8mb4",
                *([database] if database else []),
            ],
            input=statements,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def create_database(self) -> str:
        """Create an empty database; return its name."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"mysql+aiomysql://root@127.0.0.1:{self.port}/{database}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait(_START_TIMEOUT_S)
            self._process = None

    def _wait_until_it_greets(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._greets():
            running = self._process is not None and self._process.poll() is None
            if not running or time.monotonic() > deadline:
                pytest.fail((self._folder / "log").read_text(errors="replace"))
            time.sleep(0.02)

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return bool(connection.recv(1))
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []
