"""The programs that read what stands in ``deploy/``: where they are, and running them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.faults.asking import unavailable
from tests.support.server import ROOT

DEPLOY = ROOT / "deploy"
_TIMEOUT_S = 60


def program(name: str) -> str:
    """The path of a program, of this environment's own first; the test is skipped without it.

    Where ``CI`` says that it has to be there, the test fails.
    """
    own = Path(sys.executable).parent
    path = f"{own}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return shutil.which(name, path=path) or unavailable(name)


def run(
    *command: str | Path,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """All that a command prints; with ``check`` it has to end well."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
        env={**os.environ, **(environment or {})},
        cwd=directory,
    )
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def put(text: str, old: str, new: str) -> str:
    """A text with a part of it replaced, which has to be there."""
    assert old in text, old
    return text.replace(old, new)
