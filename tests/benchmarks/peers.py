"""Peers from package registries, in environments outside the repository.

They are installed once into ``$XDG_CACHE_HOME/smartserve-bench`` (``~/.cache``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.servers import Address, Unmeasurable, free_port, listening, program

_INSTALL_S = 180
_THUMBOR = "thumbor==7.8.0"
_IPX = "ipx@3.1.1"
_DONE = "installed"
"""Marker file that names the content of an environment."""
_SETTINGS = """
LOADER = "thumbor.loaders.file_loader"
FILE_LOADER_ROOT_PATH = {root!r}
STORAGE = "thumbor.storages.no_storage"
ALLOW_UNSAFE_URL = True
"""
_RESULT_STORE = """
RESULT_STORAGE = "thumbor.result_storages.file_storage"
RESULT_STORAGE_FILE_STORAGE_ROOT_PATH = {place!r}
RESULT_STORAGE_STORES_UNSAFE = True
"""


def cache() -> Path:
    """Return the cache folder; create it if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "smartserve-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def thumbor(
    place: Path, originals: Path, *, processes: int = 1, stored: bool = False, settings: str = ""
) -> Iterator[Address]:
    """Serve a folder of originals with thumbor; with ``stored``, results are kept in files.

    Raises:
        Unmeasurable: it cannot be installed, or does not start.
    """
    environment = _thumbor_environment()
    place.mkdir()
    config = place / "thumbor.conf"
    store = _RESULT_STORE.format(place=str(place / "results")) if stored else ""
    config.write_text(_SETTINGS.format(root=str(originals)) + store + settings)
    port = free_port()
    executable = str(environment / "bin" / "thumbor")
    where = ["--ip", "127.0.0.1", "--port", str(port), "--processes", str(processes)]
    command = [executable, *where, "--conf", str(config), "--log-level", "error"]
    with listening(command, port, log=place / "thumbor.log"):
        yield "127.0.0.1", port


@contextmanager
def ipx(place: Path, originals: Path) -> Iterator[Address]:
    """Serve a folder of originals with IPX, which renders in threads of one process.

    Raises:
        Unmeasurable: node is missing, or IPX cannot be installed or does not start.
    """
    node, environment = program("node"), _ipx_environment()
    place.mkdir()
    port = free_port()
    script = environment / "node_modules" / "ipx" / "bin" / "ipx.mjs"
    arguments: list[str | Path] = ["--dir", originals, "--port", str(port), "--host", "127.0.0.1"]
    with listening([node, script, "serve", *arguments], port, log=place / "ipx.log"):
        yield "127.0.0.1", port


def _thumbor_environment() -> Path:
    environment = cache() / "thumbor"
    if not _holds(environment, _THUMBOR):
        _run([sys.executable, "-m", "venv", environment])
        pip = environment / "bin" / "pip"
        _run([pip, "install", "--quiet", "--disable-pip-version-check", _THUMBOR])
        (environment / _DONE).write_text(_THUMBOR)
    return environment


def _ipx_environment() -> Path:
    environment = cache() / "ipx"
    if not _holds(environment, _IPX):
        environment.mkdir()
        (environment / "package.json").write_text(json.dumps({"private": True}))
        quiet = ["--no-audit", "--no-fund", "--loglevel", "error"]
        _run([program("npm"), "install", "--prefix", environment, *quiet, _IPX])
        (environment / _DONE).write_text(_IPX)
    return environment


def _holds(environment: Path, package: str) -> bool:
    """Return whether a package is installed; delete another or incomplete installation."""
    marker = environment / _DONE
    if marker.exists() and marker.read_text() == package:
        return True
    shutil.rmtree(environment, ignore_errors=True)
    return False


def _run(command: Sequence[str | Path]) -> None:
    print(f"  installing: {' '.join(map(str, command))}", file=sys.stderr, flush=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or error
        raise Unmeasurable(f"{command[-1]} cannot be installed: {str(told)[-500:]}") from error
