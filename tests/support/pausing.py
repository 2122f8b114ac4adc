"""Private servers for tests: real programs on free ports, which a test can pause and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_END_TIMEOUT_S = 60.0
_LOG_SHOWN = 10_000


class PausableServer:
    """A program with a folder of its own; a subclass starts it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Return whether its process exists, paused or not."""
        return self._process is not None

    def pause(self) -> None:
        """Pause it with SIGSTOP: connections stay open, new ones too, and get no answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{self._process.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")

    def resume(self) -> None:
        """Continue after `pause`; nothing if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with SIGKILL, paused or not; nothing if it does not run."""
        self._end(signal.SIGKILL)

    def _run(
        self,
        command: Sequence[str | Path],
        *,
        answers: Callable[[], bool],
        timeout_s: float,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start the program, and wait until it answers; fail with its log if it does not."""
        path = self._folder / "log"
        with path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=os.environ | (environment or {}),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + timeout_s
        while not answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(path.read_text(errors="replace")[-_LOG_SHOWN:])
            time.sleep(0.02)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_END_TIMEOUT_S)
            self._process = None
