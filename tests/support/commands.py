"""The ``smartserve`` command as a process, and requests to the server that it starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SMARTSERVE = (sys.executable, "-m", "proxy.cli")
KEY = "correct-horse-battery-staple"
"""A valid key of the admin routes."""


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*SMARTSERVE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


@contextmanager
def running(
    *arguments: str | Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``smartserve serve``; yields the process and its base URL, and kills it at the end."""
    with started(arguments, environment, stderr=subprocess.DEVNULL) as server:
        yield server


@contextmanager
def started(
    arguments: Iterable[str | Path], environment: Mapping[str, str], *, stderr: int
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """As `running`, with another standard error."""
    command = [*SMARTSERVE, "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        # Nothing has to notice that it is not ready.
        env={**os.environ, "SMARTSERVE_SERVER__LAME_DUCK_S": "0", **environment},
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            found = re.search(r"http://\S+", first)
            assert found, first
            yield process, found[0]
        finally:
            process.kill()


def fetch(url: str, accept: str = "*/*") -> tuple[str, bytes, str]:
    """Return the media type, the body and the Cache-Status of a response."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read(), answer.headers["Cache-Status"]
