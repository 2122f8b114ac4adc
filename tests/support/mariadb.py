"""A private MariaDB for tests: a real server on a free port, with data in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.pausing import PausableServer
from tests.support.ports import free_port
from tests.support.unavailable import unavailable

_PROGRAMS = ("mariadbd", "mariadb-install-db", "mariadb")
_START_TIMEOUT_S = 60.0
_SMALL = (
    "--innodb-buffer-pool-size=8M",
    "--innodb-log-file-size=4M",
    # With 0, what was committed in the last second would be lost when a test kills the server.
    "--innodb-flush-log-at-trx-commit=2",
    # No fsync: tests kill the server, never the machine. On a busy disk a schema would take 2 s.
    "--debug-no-sync",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--max-connections=60",
    "--performance-schema=OFF",
    "--skip-name-resolve",
    # Not UTC, to reveal code that relies on the server's time zone.
    "--default-time-zone=+05:00",
)


@contextmanager
def private_mariadb(*options: str) -> Iterator[MariaDB]:
    """Run a server for the scope of a fixture; each xdist worker has its own.

    ``options`` are added to its command line.

    If MariaDB is not installed, the test is skipped, or fails if ``CI`` is set.
    """
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        unavailable(f"{', '.join(missing)} not installed: nothing is tested against MariaDB")
    with tempfile.TemporaryDirectory(prefix="mariadb-") as folder:
        server = MariaDB(Path(folder), options)
        server.install()
        server.start()
        try:
            yield server
        finally:
            server.stop()


class MariaDB(PausableServer):
    """One server; port and data stay the same after a restart."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self._options = options
        self._socket = folder / "s"
        self.port = free_port()

    def install(self) -> None:
        """Create the system tables, once, before the first start."""
        done = subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={self._folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *_as_root(),
            ],
            check=False,
            capture_output=True,
            text=True,
            # The command starts a server, which needs a temporary folder of its own: see `start`.
            env={**os.environ, "TMPDIR": str(self._folder)},
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start, and wait until the server answers."""
        self._run(
            [
                "mariadbd",
                "--no-defaults",
                f"--datadir={self._folder / 'data'}",
                f"--socket={self._socket}",
                # Another server that starts deletes temporary tables in a folder that they share.
                f"--tmpdir={self._folder}",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                *_SMALL,
                *self._options,
                *_as_root(),
            ],
            answers=self._greets,
            timeout_s=_START_TIMEOUT_S,
        )

    def stop(self) -> None:
        """Stop it in order."""
        self.resume()
        self._end(signal.SIGTERM)

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

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return bool(connection.recv(1))
        except OSError:
            return False


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []
