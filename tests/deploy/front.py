"""nginx with the configuration of ``deploy/nginx``, on other ports and in other folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.servers import listening
from tests.deploy.programs import DEPLOY, program, replaced, run
from tests.support.ports import free_port

_AROUND = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include smartserve/{mode}.conf;
    {extra}
}}
"""
_KEPT = "/var/cache/nginx"

Change = tuple[str, str, str]
"""A file of ``deploy/nginx``, a text in it, and its replacement."""

CLIENT_HINTS: tuple[Change, ...] = tuple(
    ("formats.conf", f'    #"{begin}', f'    "{begin}') for begin in ("~*^[", "~*\\|[")
)
"""Enable client hints, as formats.conf says."""


@dataclass(frozen=True, slots=True)
class Front:
    """A running nginx."""

    base: str
    cache: Path
    """The directory of its cache."""
    errors: Path


def installed(
    folder: Path,
    mode: str,
    *,
    port: int,
    upstream: int,
    extra: str = "",
    changes: Iterable[Change] = (),
) -> list[str]:
    """Install ``deploy/nginx`` into a folder, and return the command that starts it.

    ``changes`` simulate an operator's edits.
    """
    shutil.copytree(DEPLOY / "nginx", folder / "smartserve")
    for name, old, new in (
        (f"{mode}.conf", "listen 80;", f"listen 127.0.0.1:{port};"),
        (f"{mode}.conf", _KEPT, str(folder)),
        ("upstream.conf", "127.0.0.1:8080", f"127.0.0.1:{upstream}"),
        *changes,
    ):
        file = folder / "smartserve" / name
        file.write_text(replaced(file.read_text(), old, new))
    (folder / "smartserve-files").mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_AROUND.format(user=user, mode=mode, extra=extra))
    return [program("nginx"), "-p", f"{folder}/", "-c", str(config), "-e", str(folder / "errors")]


@contextmanager
def nginx(
    folder: Path, mode: str, *, upstream: int, extra: str = "", changes: Iterable[Change] = ()
) -> Iterator[Front]:
    """Run nginx for the length of the block, after its own configuration test has passed."""
    folder.mkdir()
    port = free_port()
    command = installed(folder, mode, port=port, upstream=upstream, extra=extra, changes=changes)
    with started(command, folder, port):
        yield Front(f"http://127.0.0.1:{port}", folder / "smartserve", folder / "error.log")


@contextmanager
def started(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """Run a command that `installed` returned."""
    output = run(*command, "-t")
    assert "warn" not in output, output
    with listening(command, port, log=folder / "out"):
        yield
