"""Fixtures of the commands' tests: a command that runs in this process, and files to import."""

from __future__ import annotations

import gc
import io
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from structlog.testing import capture_logs

from proxy.cli import main
from tests.benchmarks.servers import bare_environment
from tests.support.server import SAMPLES


@dataclass(frozen=True, slots=True)
class Completed:
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str


class Invoke(Protocol):
    """Runs a command in this process, with ``environment`` in place of SMARTSERVE_* variables."""

    def __call__(self, *arguments: str | Path, **environment: str) -> Completed: ...


@pytest.fixture(autouse=True)
def _logging_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the configuration of logs, so that commands do not change those of this process.

    Loggers are cached when they are used first. Those of later tests would write to the captured
    standard error of this one, which is closed by then.
    """
    for module in ("base", "doctor"):
        monkeypatch.setattr(f"proxy.cli.{module}.configure_logs", lambda _section: None)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in this process: a process of its own takes a second for imports alone."""

    def run(*arguments: str | Path, **environment: str) -> Completed:
        stdout, stderr = io.StringIO(), io.StringIO()
        code: object = 0
        with monkeypatch.context() as patch:
            for name in os.environ.keys() - bare_environment().keys():
                patch.delenv(name)
            for name, value in {"NO_COLOR": "1", "COLUMNS": "200", **environment}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["smartserve", *map(str, arguments)])
            # The collector belongs to the process: other tests need it unchanged.
            patch.setattr(gc, "freeze", lambda: None)
            with capture_logs(), redirect_stdout(stdout), redirect_stderr(stderr):
                try:
                    main()
                except SystemExit as end:
                    code = end.code
        return Completed(code if isinstance(code, int) else 0, stdout.getvalue(), stderr.getvalue())

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two images, a copy of one, three files that are not images, and a hidden one."""
    top = tmp_path / "pictures"
    (top / "below").mkdir(parents=True)
    shutil.copy(SAMPLES / "logo.png", top / "logo.png")
    shutil.copy(SAMPLES / "badge.png", top / "below" / "Schöne Grüße [1].png")
    shutil.copy(SAMPLES / "logo.png", top / "below" / "same.png")
    (top / "notes.txt").write_text("not an image")
    (top / "icon.svg").write_text("<SVG/>")
    (top / "cut.png").write_bytes((SAMPLES / "badge.png").read_bytes()[:9000])
    (top / ".hidden").write_text("ignored")
    return top
