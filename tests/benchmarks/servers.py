"""The measured servers: smartserve as installed, nginx, and `FileResponse`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.processes import family
from tests.support.ports import free_port

Address = tuple[str, int]

_START_S = 30
_STOP_S = 30
_ANNOUNCED = re.compile(r"^smartserve \S+ on http://([^:]+):(\d+)$")
_NGINX = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 2048; }}
http {{
    access_log {access_log};
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    types {{ image/avif avif; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {root};
    }}
}}
"""


class Unmeasurable(Exception):
    """Something cannot be measured here; the text says what is missing or failed."""


@dataclass(frozen=True, slots=True)
class Smartserve:
    """A running ``smartserve serve``."""

    address: Address
    log: Path
    """Its standard error: access log and errors."""
    pid: int


def program(name: str) -> str:
    """Return the path of an installed program."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Unmeasurable(f"{name} is not installed, and this benchmark needs it")
    return found


def command(*arguments: str | Path) -> list[str]:
    """Return a ``smartserve`` command line of this environment."""
    return [str(Path(sys.executable).with_name("smartserve")), *map(str, arguments)]


SUITE: dict[str, str] = {}
"""Settings that `tests.conftest` gives all servers. Empty in benchmarks, which measure defaults."""


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with only these settings of smartserve.

    By default a server stops at once: nothing has to notice that it is not ready.
    """
    settings = {"SERVER__LAME_DUCK_S": "0", **settings}
    return bare_environment() | {f"SMARTSERVE_{name}": value for name, value in settings.items()}


def bare_environment() -> dict[str, str]:
    """Return this process's environment; of the settings of smartserve it has only `SUITE`."""
    rest = {name: value for name, value in os.environ.items() if "SMARTSERVE_" not in name}
    return rest | {f"SMARTSERVE_{name}": value for name, value in SUITE.items()}


@contextmanager
def smartserve(
    data_dir: Path, *arguments: str | Path, settings: Mapping[str, str] | None = None
) -> Iterator[Smartserve]:
    """Serve a data directory on a free port for the length of the block."""
    log = data_dir.with_suffix(".log")
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            command("serve", "--port", "0", "--data-dir", data_dir, *arguments),
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment(**(settings or {})),
            text=True,
        )
    with ended(process):
        yield Smartserve(_announced(process, log), log, process.pid)


@contextmanager
def nginx(directory: Path, root: Path, *, access_log: bool = False) -> Iterator[Address]:
    """Serve the files of a folder with nginx and one worker process.

    Its access log, if it has one, is written in batches, as that of smartserve.
    """
    directory.mkdir()
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    log = "access.log combined buffer=64k flush=250ms" if access_log else "off"
    config.write_text(_NGINX.format(user=user, port=port, root=root, access_log=log))
    errors = str(directory / "error.log")
    arguments = [program("nginx"), "-p", f"{directory}/", "-c", str(config), "-e", errors]
    with listening(arguments, port, log=directory / "out.log"):
        yield "127.0.0.1", port


@contextmanager
def file_response(directory: Path, root: Path) -> Iterator[Address]:
    """Serve the files of a folder with aiohttp's `FileResponse`, in one process."""
    port = free_port()
    script = Path(__file__).with_name("fileserver.py")
    arguments: list[str | Path] = [sys.executable, script, root, str(port)]
    with listening(arguments, port, log=directory / "fileserver.log"):
        yield "127.0.0.1", port


@contextmanager
def listening(
    arguments: Sequence[str | Path],
    port: int,
    *,
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a server for the length of the block; yield its process id when it listens."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(variables or {})},
        )
    with ended(process):
        _await_listening(("127.0.0.1", port), process, log)
        yield process.pid


def nginx_version() -> str:
    """Return name and version of the installed nginx."""
    told = subprocess.run([program("nginx"), "-v"], check=True, capture_output=True, text=True)
    return told.stderr.strip().rpartition(" ")[2]


@contextmanager
def ended(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process with the block; kill it and its descendants if it does not stop."""
    try:
        yield
    finally:
        members = family(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        for member in members[process.returncode is not None :]:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _announced(process: subprocess.Popen[str], log: Path) -> Address:
    """Return the address that the server prints in its first line of output."""
    if process.stdout is None:
        raise AssertionError
    match = _ANNOUNCED.match(process.stdout.readline().rstrip())
    if match is None:
        raise Unmeasurable(f"smartserve did not start: {log.read_text()[-2000:]}")
    return match[1], int(match[2])


def _await_listening(address: Address, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(address, 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Unmeasurable(f"{process.args!r} did not start: {log.read_text()[-2000:]}")
