"""Start of a worker process: its options, its first message, and the log of what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

import structlog

from proxy.domain.worker_protocol import MAX_DATAGRAM, JobFailure, MessageReader, WorkerInfo
from proxy.rendering.pool.process import TimeLimit, WorkerDied, WorkerProcess
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor

_KEPT_BYTES = 64 * 1024 * 1024

_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    # By default glibc returns large buffers to the kernel as soon as they are freed, and each image
    # causes up to 3,000 page faults. One arena for all threads, which keeps free memory, avoids
    # most of them and takes less memory in total (mallopt(3)).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
    # numpy's library starts threads when it is imported; the sandbox is entered with one.
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "VIPS_CONCURRENCY": "1",
    "VIPS_WARNING": "0",
}
"""The complete environment of a worker: nothing is inherited from the server. libvips reports
errors through its API and must not also print a warning for every damaged image."""

RENDER_WORKER = "proxy.rendering.worker"

_STDERR_BYTES = 16 * 1024
_STDERR_BATCH_S = 0.1
_STDERR_MAX_ENTRIES = 20

log = structlog.get_logger(__name__)


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
    system_fonts: bool = False
    """Draw text of SVGs also with fonts of the system."""
    module: str = RENDER_WORKER
    """The program of the process."""
    python: str = sys.executable
    """The interpreter of the process."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Options that only ``module`` knows."""


async def start_worker(
    options: WorkerStartOptions,
    *,
    timeout_s: float,
    wall_factor: float = 1.0,
    supervisor: TaskSupervisor = UNCOUNTED,
) -> WorkerProcess:
    """Start a process and wait for its `WorkerInfo`, for ``timeout_s`` of its CPU time.

    Raises:
        WorkerDied: it did not report in time.
        WorkerUnfit: it reported that it cannot work.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Datagrams keep message boundaries, and a close is detected as an empty message.
    ours.settimeout(0)
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        with theirs:
            process = await _spawned(theirs.fileno(), options)
        limit = TimeLimit(process.pid, timeout_s, wall_factor=wall_factor)
        hello = await _first_message(process, ours, limit)
        undo.pop_all()
    printed = partial(log_stderr, process.stderr, process.pid)
    return WorkerProcess(
        process,
        ours,
        hello,
        stderr_log=supervisor.start(BackgroundTask.WORKER_STDERR, printed),
        max_cpu_s=options.max_cpu_s,
    )


async def _spawned(descriptor: int, options: WorkerStartOptions) -> asyncio.subprocess.Process:
    """As `_spawn`; a process that is being started when this call is cancelled is ended."""
    spawning = asyncio.ensure_future(_spawn(descriptor, options))
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        await _end(await spawning)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    await log_stderr(process.stderr, process.pid)


async def _spawn(descriptor: int, options: WorkerStartOptions) -> asyncio.subprocess.Process:
    """Start a process whose end of the socket pair is ``descriptor``."""
    # A session of its own: the terminal sends Ctrl-C to the server alone.
    return await asyncio.create_subprocess_exec(
        options.python,
        *("-I", "-m", options.module, str(descriptor), json.dumps(asdict(options))),
        stdin=asyncio.subprocess.DEVNULL,
        # Not the server's own: that may be a terminal, or a pipe that others read as its output.
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(descriptor,),
        env=_ENVIRONMENT,
        start_new_session=True,
    )


async def _first_message(
    process: asyncio.subprocess.Process, connection: socket.socket, limit: TimeLimit
) -> WorkerInfo:
    """Receive the `WorkerInfo` of a new process; if there is none in time, end the process."""
    receiving = asyncio.create_task(_receive_info(connection))
    try:
        await _wait(receiving, limit)
        return receiving.result()
    except BaseException:
        receiving.cancel()
        await _end(process)
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
