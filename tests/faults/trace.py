"""strace on a running process: the files that it opens, by their real paths."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.unavailable import unavailable
from tests.support.waiting import eventually

_OPENED = re.compile(r"\bopen(?:at|at2)?\(.*\) = \d+<(.*?)(?:<char [\d:]+>)?>$", re.MULTILINE)
_START_S = 10.0


class Trace:
    """The files opened since the trace began."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def opened(self) -> list[str]:
        """Return the real paths of all files that were opened, as the kernel reports them."""
        return _OPENED.findall(self._output.read_text(errors="replace"))


@asynccontextmanager
async def traced(pid: int, output: Path) -> AsyncIterator[Trace]:
    """Trace a process with its threads and children for the length of the block."""
    # -y names descriptors by their path;
    arguments = (_strace(), "-f", "-y", "-e", "trace=open,openat,openat2", "-o", str(output))
    process = await asyncio.create_subprocess_exec(
        *arguments, "-p", str(pid), stderr=subprocess.PIPE
    )
    try:
        await _attached(pid)
        yield Trace(output)
    finally:
        process.send_signal(signal.SIGINT)
        await process.communicate()


def _strace() -> str:
    """Return the program; without it skip the test, or fail if ``CI`` is set."""
    found = shutil.which("strace")
    if found is None:
        unavailable("strace is not installed")
    return found


async def _attached(pid: int) -> None:
    """Return when every thread of a process is traced."""
    await eventually(
        lambda: all(_is_traced(task) for task in Path(f"/proc/{pid}/task").iterdir()),
        timeout_s=_START_S,
    )


def _is_traced(task: Path) -> bool:
    return "TracerPid:\t0\n" not in (task / "status").read_text()
