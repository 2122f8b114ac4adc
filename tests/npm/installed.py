"""Packages from npm, installed once per machine, and applications that are built with them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.programs import program
from tests.support.server import ROOT, SAMPLES

HERE = Path(__file__).parent
PACKAGE = ROOT / "deploy" / "npm"
CACHE = Path.home() / ".cache" / "smartserve-tests"
_INSTALL = ("ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
_RETRIES = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000")
_OFFLINE = re.compile(
    r"npm error code (E(?:NOTFOUND|AI_AGAIN|CONNREFUSED|CONNRESET|HOSTUNREACH|NETUNREACH|TIMEDOUT)"
    r"|ERR_SOCKET_TIMEOUT)"
)
_QUIET = {"NEXT_TELEMETRY_DISABLED": "1", "NUXT_TELEMETRY_DISABLED": "1"}
_TIMEOUT_S = 400
_OLDEST_NODE = (20, 19)


def run(*command: str | Path, at: Path) -> str:
    """Return the standard output of a command, which must succeed."""
    done = _run(*command, at=at)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def node_modules(folder: Path) -> Path:
    """Return the packages of a folder's package-lock.json, installed if they are not yet.

    The test is skipped without a network, or with an older Node.js than they need, also if
    ``CI=true``: the packages of a system do not replace them.
    """
    version = run(program("node"), "--version", at=folder).strip()
    if tuple(map(int, version.removeprefix("v").split(".")[:2])) < _OLDEST_NODE:
        pytest.skip(f"the packages of {folder} need Node.js 20.19 or newer, and this is {version}")
    lock = (folder / "package-lock.json").read_bytes()
    place = CACHE / f"npm-{hashlib.sha256(lock).hexdigest()[:16]}"
    with _locked(place.with_suffix(".lock")):
        if not place.is_dir():
            _install(folder, place)
    return place / "node_modules"


def built(folder: Path, place: Path, *command: str, also: Mapping[str, Path] | None = None) -> Path:
    """Return the application of a folder, built in a place that several processes share.

    ``also``: further files of the application.
    """
    with _locked(place.with_suffix(".lock")):
        if not (place / "built").exists():
            lay_out(folder, place)
            for name, file in (also or {}).items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place / name)
            run(program("node"), *command, at=place)
            (place / "built").touch()
    return place


def lay_out(folder: Path, place: Path) -> Path:
    """Copy an application and install its packages: links to the cache, and a copy of our own."""
    lock = folder if (folder / "package-lock.json").exists() else folder.parent
    packages = node_modules(lock)
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("node_modules"))
    (place / "public").mkdir()
    shutil.copy(SAMPLES / "badge.png", place / "public")
    (place / "node_modules").mkdir()
    for package in packages.iterdir():
        (place / "node_modules" / package.name).symlink_to(package)
    # Like `npm install --install-links`: a linked package would not find the application's React.
    shutil.copytree(PACKAGE, place / "node_modules" / "smartserve-image")
    return place


def _install(folder: Path, place: Path) -> None:
    npm = program("npm")
    unfinished = place.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(folder / name, unfinished)
    done = _run(npm, *_INSTALL, *_RETRIES, at=unfinished)
    if found := _OFFLINE.search(done.stderr):
        pytest.skip(f"npm cannot install the packages of {folder}: {found[1]}")
    assert done.returncode == 0, done.stderr
    unfinished.rename(place)


def _run(*command: str | Path, at: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
        env={**os.environ, **_QUIET},
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of a test run, and among test runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
