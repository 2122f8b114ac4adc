"""A worker process: spawned with a socket pair, given one job at a time.

A job leaves as one datagram with its descriptors; the reply is one datagram too. See
`proxy.domain.worker_protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import structlog

from proxy.domain.worker_protocol import MAX_DATAGRAM, JobFailure, WorkerInfo, decode
from proxy.rendering.pool.pending_job import PendingJob, WorkerDied
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel

OnFree = Callable[["WorkerProcess"], None]
OnLost = Callable[["WorkerProcess", str], None]

_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "VIPS_CONCURRENCY": "1",
    "VIPS_WARNING": "0",
}
"""The complete environment of a worker: nothing is inherited from the server. libvips reports
errors through its API and must not also print a warning for every damaged image."""

_CLOSE_S = 1.0
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


class WorkerProcess:
    """A child process that does one job at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        hello: WorkerInfo,
        *,
        supervisor: TaskSupervisor,
    ) -> None:
        """Use `start`, then `attend`."""
        self._process = process
        self._stderr_log = supervisor.start(
            BackgroundTask.WORKER_STDERR, partial(_log_stderr, process.stderr, process.pid)
        )
        self._connection = connection
        self._job: PendingJob | None = None
        self.hello = hello
        self.jobs = 0
        """Number of jobs done."""

    @classmethod
    async def start(
        cls,
        options: WorkerStartOptions,
        *,
        timeout_s: float,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> WorkerProcess:
        """Spawn a process and wait for its `WorkerInfo`.

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
                process = await _spawn(theirs.fileno(), options)
            hello = await _first_message(process, ours, timeout_s)
            undo.pop_all()
        return cls(process, ours, hello, supervisor=supervisor)

    def attend(self, *, on_free: OnFree, on_lost: OnLost) -> None:
        """Start to process messages of the worker.

        ``on_free`` is called after each reply, ``on_lost`` with a reason once the process ended by
        itself or sent an invalid message; both on the event loop.
        """
        self._on_free = on_free
        self._on_lost = on_lost
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._on_readable)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process has not ended.

        The socket reports the end at once, the exit status only in a later turn of the loop. A job
        given to a dead worker in between would count as a crash caused by its source.
        """
        try:
            return bool(self._connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def begin(self, job: PendingJob) -> bool:
        """Give a job to this idle worker; return False if the worker is gone."""
        if not self.alive or not job.send(self._connection):
            return False
        self._job = job
        return True

    def works_on(self, job: PendingJob) -> bool:
        """Return whether this is the job in progress."""
        return self._job is job

    def _on_readable(self) -> None:
        """Receive the reply to the job in progress, or detect the end of the process."""
        try:
            reply = _message(self._connection.recv(MAX_DATAGRAM))
        except BlockingIOError:
            return
        except OSError:
            # The kernel resets the connection if a process ends with a datagram still unread.
            self._lose(WorkerDied("crash", started=False))
        except WorkerDied as death:
            self._lose(death)
        else:
            self._free(reply)

    def _free(self, reply: Any) -> None:
        # Cleared first: `on_free` may give this worker its next job.
        job, self._job = self._job, None
        self.jobs += 1
        try:
            # The next job is sent before this reply is processed, so the worker does not wait.
            self._on_free(self)
        finally:
            if job is not None:
                job.finish(reply)

    def _lose(self, death: WorkerDied) -> None:
        self.end(death)
        self._on_lost(self, death.reason)

    def end(self, death: WorkerDied) -> None:
        """Kill the process and fail the job in progress."""
        # Its state is unknown, so the process is never reused.
        self.kill()
        self._stop_reading()
        job, self._job = self._job, None
        if job is not None:
            job.fail(death)

    def _stop_reading(self) -> None:
        if self._connection.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())

    def kill(self) -> None:
        """Send SIGKILL; no effect if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def aclose(self) -> None:
        """Close the socket, which ends an idle process; kill the process if it does not end."""
        self._stop_reading()
        self._connection.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        # A read that keeps failing would be restarted for ever, so the wait is limited.
        await asyncio.wait([self._stderr_log], timeout=_CLOSE_S)
        await cancel(self._stderr_log)


async def _spawn(descriptor: int, options: WorkerStartOptions) -> asyncio.subprocess.Process:
    # A session of its own: the terminal sends Ctrl-C to the server alone.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-m", "proxy.rendering.worker", str(descriptor), json.dumps(asdict(options))),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(descriptor,),
        env=_ENVIRONMENT,
        start_new_session=True,
    )


async def _first_message(
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
        await _log_stderr(process.stderr, process.pid)
        if isinstance(error, TimeoutError):
            raise WorkerDied("start") from None
        raise


async def _receive_info(connection: socket.socket) -> WorkerInfo:
    try:
        datagram = await asyncio.get_running_loop().sock_recv(connection, MAX_DATAGRAM)
    except OSError as error:
        raise WorkerDied("crash", started=False) from error
    message: WorkerInfo | JobFailure = _message(datagram)
    if isinstance(message, JobFailure):
        raise WorkerUnfit(message.detail)
    return message


def _message(datagram: bytes) -> Any:
    """Decode a datagram; an empty one is the end of the process."""
    if not datagram:
        raise WorkerDied("crash")
    try:
        return decode(datagram)
    except ValueError as error:
        raise WorkerDied("protocol") from error


async def _log_stderr(stream: asyncio.StreamReader | None, pid: int) -> None:
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
