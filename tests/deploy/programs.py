"""Programs that validate the files in ``deploy/``: finding and running them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.server import ROOT
from tests.support.unavailable import unavailable

DEPLOY = ROOT / "deploy"
_TIMEOUT_S = 60


def program(name: str) -> str:
    """Return the path of a program, preferring this environment's; skip the test without it.

    Fail if ``CI`` is set.
    """
    own = Path(sys.executable).parent
    path = f"{own}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return shutil.which(name, path=path) or unavailable(f"{name} is not installed")


def run(
    *command: str | Path,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """Return the output of a command; with ``check`` it must succeed."""
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


def replaced(text: str, old: str, new: str) -> str:
    """Replace a part of a text, which must occur in it."""
    assert old in text, old
    return text.replace(old, new)
