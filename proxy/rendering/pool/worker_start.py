"""Start of a worker process: its options, its first message, and the log of what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from proxy.domain.worker_protocol import MAX_DATAGRAM, JobFailure, MessageReader, WorkerInfo

_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "VIPS_CONCURRENCY": "1",
    "VIPS_WARNING": "0",
}
"""The complete environment of a worker: nothing is inherited from the server. libvips reports
errors through its API and must not also print a warning for every damaged image."""

_CPUCLOCK_SCHED = 2
_MAX_CHECK_S = 1.0
_STDERR_BYTES = 16 * 1024
_STDERR_BATCH_S = 0.1
_STDERR_MAX_ENTRIES = 20

log = structlog.get_logger(__name__)


class WorkerDied(Exception):
    """The process ended or was killed before it replied.

    ``started`` is False if it had not read the job yet: then the source is not to blame.
    """

    def __init__(self, reason: str, *, started: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.started = started


class WorkerUnfit(Exception):
    """The process started but reported that it cannot work; the text is the reason."""


@dataclass(frozen=True, slots=True)
class WorkerStartOptions:
    """Options of a worker, passed as JSON on its command line."""

    source_types: tuple[str, ...]
    """Types that its loaders may open."""
    max_memory_bytes: int
    max_cpu_s: float
    """Processor time for one rendition."""
    sandbox: bool
    uid: int
    """The user that the process changes to if it is root."""
    nice: int
    """Added to the server's niceness, see nice(2)."""
    idle: bool
    """Run only while the processor is otherwise idle."""


def cpu_time(pid: int) -> float:
    """Return the CPU seconds that a process has used, in all its threads.

    Raises:
        OSError: the process has ended, and its status was read.
    """
    # The clock of another process, as clock_getcpuclockid(3) computes its id.
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


class TimeLimit:
    """Limits the CPU time of a process, which may take longer on a busy machine.

    Wall-clock time only counts if the process hangs, or has not got its CPU time after
    ``wall_factor`` times the limit.
    """

    def __init__(self, pid: int, seconds: float, *, wall_factor: float) -> None:
        self._pid = pid
        self._seconds = seconds
        self._max_wall_s = seconds * wall_factor
        self._cpu_s = 0.0
        self.restart()

    def restart(self) -> None:
        """Grant the whole time anew."""
        self._wall_began, self._cpu_began = time.monotonic(), self._read_cpu()
        self._progress: float | None = None
        self.next_check_s = self._seconds
        """Seconds from the last `restart` or `check` until the next check is useful."""

    def check(self) -> str | None:
        """Return why the process must be killed now, or None.

        "deadline": it used up its CPU time, or hangs. "starved": it did not get that time.
        """
        wall_s = time.monotonic() - self._wall_began
        used_s = self._read_cpu() - self._cpu_began
        if used_s >= self._seconds:
            return "deadline"
        if wall_s < self._seconds:
            self.next_check_s = self._seconds - wall_s
            return None
        # It sleeps and has used nothing since the last check: stopped, deadlocked, or waiting for
        # a dead file system. A starved process is runnable.
        if used_s == self._progress and not _is_runnable(self._pid):
            return "deadline"
        if wall_s >= self._max_wall_s:
            return "starved"
        self._progress = used_s
        self.next_check_s = min(_MAX_CHECK_S, self._seconds / 4)
        return None

    def _read_cpu(self) -> float:
        # The end of the process is detected by its socket.
        with contextlib.suppress(OSError):
            self._cpu_s = cpu_time(self._pid)
        return self._cpu_s


def _is_runnable(pid: int) -> bool:
    """Return whether a thread of the process uses a CPU or waits for one (proc_pid_stat(5))."""
    try:
        lines = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return True  # a thread has just ended
    return any(line.rpartition(") ")[2].startswith("R") for line in lines)


async def spawn(descriptor: int, options: WorkerStartOptions) -> asyncio.subprocess.Process:
    """Start a process whose end of the socket pair is ``descriptor``."""
    # A session of its own: the terminal sends Ctrl-C to the server alone.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-m", "proxy.rendering.worker", str(descriptor), json.dumps(asdict(options))),
        stdin=asyncio.subprocess.DEVNULL,
        # Not the server's own: that may be a terminal, or a pipe that others read as its output.
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(descriptor,),
        env=_ENVIRONMENT,
        start_new_session=True,
    )


async def first_message(
    process: asyncio.subprocess.Process, connection: socket.socket, limit: TimeLimit
) -> WorkerInfo:
    """Receive the `WorkerInfo` of a new process; if there is none in time, end the process."""
    receiving = asyncio.create_task(_receive_info(connection))
    try:
        await _wait(receiving, limit)
        return receiving.result()
    except BaseException:
        receiving.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await log_stderr(process.stderr, process.pid)
        raise


async def _wait(receiving: asyncio.Task[WorkerInfo], limit: TimeLimit) -> None:
    while not receiving.done():
        await asyncio.wait([receiving], timeout=limit.next_check_s)
        if not receiving.done() and limit.check():
            raise WorkerDied("start")


async def _receive_info(connection: socket.socket) -> WorkerInfo:
    messages, message = MessageReader(), None
    while message is None:
        try:
            datagram = await asyncio.get_running_loop().sock_recv(connection, MAX_DATAGRAM)
        except OSError as error:
            raise WorkerDied("crash", started=False) from error
        try:
            message = messages.feed(datagram)
        except ValueError as error:
            # An empty datagram is the end of the process.
            raise WorkerDied("protocol" if datagram else "crash") from error
    if isinstance(message, JobFailure):
        raise WorkerUnfit(message.detail)
    if not isinstance(message, WorkerInfo):
        raise WorkerDied("protocol")
    return message


async def log_stderr(stream: asyncio.StreamReader | None, pid: int) -> None:
    """Log what a worker prints, for example a traceback, until the process ends.

    A pipe is used because the sandbox denies writes to files, which the server's own standard
    error may be. The number of entries is limited: a worker must not fill the log.
    """
    entries = 0
    while stream is not None and (text := await stream.read(_STDERR_BYTES)):
        if entries < _STDERR_MAX_ENTRIES:
            # The lines of a traceback arrive one by one; this joins them into one entry.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STDERR_BATCH_S):
                    while len(text) < _STDERR_BYTES and (more := await stream.read(_STDERR_BYTES)):
                        text += more
            entry = text.decode(errors="replace").strip()
            log.warning("worker_printed", pid=pid, text=entry)
        entries += 1
