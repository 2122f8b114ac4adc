"""Start of a worker process: its options, its first message, and the log of what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from dataclasses import asdict, dataclass

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
    process: asyncio.subprocess.Process, connection: socket.socket, timeout_s: float
) -> WorkerInfo:
    """Receive the `WorkerInfo` of a new process; if there is none, end the process."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _receive_info(connection)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await log_stderr(process.stderr, process.pid)
        if isinstance(error, TimeoutError):
            raise WorkerDied("start") from None
        raise


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
