"""A worker process, which does one job at a time, and the jobs that it is given.

A job leaves as one datagram with its descriptors; the reply is one or more datagrams. See
`proxy.domain.worker_protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import resource
import socket
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any, Protocol, Self

from proxy.domain.errors import QueueFull, RenderFault, SourceTooLarge
from proxy.domain.worker_protocol import (
    MAX_DATAGRAM,
    FrameDecoder,
    Job,
    JobFailure,
    MessageReader,
    RenditionSet,
    RenditionSetResult,
    WorkerInfo,
    encode,
)
from proxy.runtime.supervised_task import cancel

Sink = Callable[[bytes], None]
"""Receives encoded bytes. Called on the event loop in the context of the job's caller, so it must
neither block nor raise. The sink of a framed set may be a `FrameDecoder`, which is then checked
against the reply."""

_PIPE_BYTES = 1024 * 1024
"""Pipe capacity: most renditions fit, so the worker does not wait for the server to read."""
_READ_BYTES = 256 * 1024
_GATHER_S, _MAX_GATHER_S = 0.01, 0.04
"""Seconds between reads of a pipe after the first one, doubled with each. libvips writes 8 KiB at a
time, and passing each piece on cost the server more processor time than the rest of the request.
An encoder fills less than the pipe in 40 ms."""
_CLOSE_S = 1.0
_CPUCLOCK_SCHED = 2
_MAX_CHECK_S = 1.0

OnFree = Callable[["PoolProcess"], None]
OnLost = Callable[["PoolProcess", str], None]


class WorkerDied(Exception):
    """The process ended or was killed before it replied.

    ``started`` is False if it had not read the job yet: then the source is not to blame. ``spent``
    is True if it has used up its CPU time: any other worker would, too.
    """

    def __init__(self, reason: str, *, started: bool = True, spent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.started = started
        self.spent = spent


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
        self.spent = False
        """Whether `check` has found that the whole CPU time was used."""
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
            self.spent = True
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


class PendingJob:
    """A job that waits for a worker, then for its reply.

    Everything is prepared before a worker is free, so no worker waits. Use it as a context manager:
    the exit closes the pipe.
    """

    def __init__(
        self,
        job: Job[Any],
        source: int | None,
        sink: Sink,
        *,
        max_bytes: int = 0,
        attachment: int | None = None,
    ) -> None:
        """Without a ``source`` (a `Ping`) there is no pipe; descriptors remain the caller's.

        ``max_bytes`` limits one rendition. An ``attachment`` is a second file to read.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.job = job
        self._datagram = encode(job)
        # The worker would receive a part of it and die.
        if len(self._datagram) > MAX_DATAGRAM:
            raise RenderFault("the job is too large for a message to a worker process")
        self._source = source
        self._attached = [] if attachment is None else [attachment]
        self._sink = sink
        # A reply is handled in the context of the worker's connection. Tasks that the sink starts
        # need that of the caller: it has the trace, and the fields of log entries.
        self._context = copy_context()
        streams = isinstance(job, RenditionSet) and job.streams
        self._buffer: list[bytes] | None = None if streams else []
        self._extends_deadline = isinstance(job, RenditionSet) and job.framed
        self.renditions = max(1, len(job.outputs)) if isinstance(job, RenditionSet) else 1
        self._max_bytes = max_bytes * self.renditions
        self.worker_pid = 0
        self._limit: TimeLimit | None = None
        self._pipe: list[int] = []
        """The read end, then the write end until a worker has it."""
        self._reading = False
        self._gathers = False
        """Whether an encoder fills the pipe, and the pipe holds its output of `_MAX_GATHER_S`."""
        self._gather_s = _GATHER_S
        self._next_read: asyncio.TimerHandle | None = None
        self._received = 0
        self.worker: asyncio.Future[Any] = loop.create_future()
        """The `WorkerProcess` that has started the job."""
        self._reply: asyncio.Future[Any] = loop.create_future()

    def repeatable(self, death: WorkerDied) -> bool:
        """Return whether another worker may repeat the job: the sink has received nothing.

        A framed set is also repeated if a worker broke the protocol. After other deaths its
        remaining outputs have their own job later.
        """
        if isinstance(self._sink, FrameDecoder) and death.reason == "protocol":
            return True
        return not self._received or self._buffer is not None

    def __enter__(self) -> Self:
        """Create the pipe.

        Raises:
            QueueFull: the process has no free file descriptor.
        """
        if self._source is not None:
            try:
                self._pipe = list(os.pipe2(os.O_CLOEXEC))
            except OSError as error:
                raise QueueFull("too many files are open", retry_after_s=1) from error
            os.set_blocking(self._pipe[0], False)
            # The kernel refuses a size beyond the user's pipe quota; the default then has to do.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(self._pipe[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                # Other output arrives all at once, as fast as the pipe is read.
                self._gathers = self._buffer is None and not self._extends_deadline
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipe."""
        self._stop_reading()
        for end in self._pipe:
            os.close(end)
        self._pipe = []
        # Retrieve an exception that nobody awaited, or asyncio logs it as lost.
        if not self._reply.cancel() and not self._reply.cancelled():
            self._reply.exception()

    def send(self, connection: socket.socket) -> bool:
        """Send the job to a worker; return False if the worker is gone."""
        descriptors = []
        if self._source is not None:
            descriptors = [self._source, self._pipe[1], *self._attached]
        if isinstance(self._sink, FrameDecoder):
            self._sink.restart()
        try:
            socket.send_fds(connection, [self._datagram], descriptors)
        except OSError:
            return False
        if self._pipe:
            # Only the worker may hold the write end: its close is the end of the output.
            os.close(self._pipe.pop())
            self._start_reading()
        return True

    async def result(self, deadline_s: float, *, wall_factor: float = 1.0) -> Any:
        """Wait for the reply, at which all output has been passed to the sink.

        The limit is CPU time of the worker, see `TimeLimit`. A framed set may take it for each
        piece of output, any other job in total.

        Raises:
            SourceTooLarge: the output exceeds the limit.
            WorkerDied: the worker ended, or has to be ended for one of the reasons of `TimeLimit`.
        """
        self._limit = limit = TimeLimit(self.worker_pid, deadline_s, wall_factor=wall_factor)
        self._timer = self._loop.call_later(limit.next_check_s, self._check_time, limit)
        try:
            return await self._reply
        finally:
            self._timer.cancel()

    def _check_time(self, limit: TimeLimit) -> None:
        if reason := limit.check():
            self.fail(WorkerDied(reason, spent=limit.spent))
        else:
            self._timer = self._loop.call_later(limit.next_check_s, self._check_time, limit)

    def accepts(self, reply: Any) -> bool:
        """Return whether a reply to this job fits its output."""
        if not isinstance(reply, RenditionSetResult):
            return True
        if isinstance(self._sink, FrameDecoder):
            self._read_rest()
            return self._sink.matches(reply.results)
        if not self._received:
            self._read_rest()
        # There is one result, and a rendition is not empty.
        return self._received > 0 or isinstance(reply.results[0], JobFailure)

    def finish(self, reply: Any) -> None:
        """Pass on the remaining output, then set the reply."""
        self._read_rest()
        if self._reply.done():
            return
        if self._buffer and not isinstance(reply, JobFailure):
            self._context.run(self._sink, b"".join(self._buffer))
        self._reply.set_result(reply)

    def _read_rest(self) -> None:
        # All output is in the pipe by now: the worker closes its end before it replies.
        self._stop_reading()
        with contextlib.suppress(BlockingIOError):
            while self._pipe and self._read():
                pass

    def fail(self, error: Exception) -> None:
        """Set an exception instead of a reply."""
        if not self._reply.done():
            self._reply.set_exception(error)

    def _start_reading(self) -> None:
        self._next_read = None
        self._loop.add_reader(self._pipe[0], self._on_readable)
        self._reading = True

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            before = self._received
            if not self._read():
                self._stop_reading()
            elif self._gathers and self._received - before < _READ_BYTES:
                # The rest of a short output is read when the reply arrives, without a wait.
                self._stop_reading()
                self._next_read = self._loop.call_later(self._gather_s, self._start_reading)
                self._gather_s = min(2 * self._gather_s, _MAX_GATHER_S)

    def _stop_reading(self) -> None:
        if self._next_read is not None:
            self._next_read.cancel()
            self._next_read = None
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._pipe[0])

    def _read(self) -> bool:
        """Process one chunk; return False when there is no more.

        Raises:
            BlockingIOError: the pipe is empty.
        """
        chunk = os.read(self._pipe[0], _READ_BYTES)
        self._received += len(chunk)
        if self._received > self._max_bytes:
            # No more is read. The worker blocks on the full pipe until the pool kills it.
            self.fail(SourceTooLarge("the rendition is larger than the server stores"))
            return False
        if not chunk:
            return False
        if self._buffer is not None:
            self._buffer.append(chunk)
            return True
        try:
            self._context.run(self._sink, chunk)
        except ValueError:
            # Only a `FrameDecoder` raises it.
            self.fail(WorkerDied("protocol"))
            return False
        if self._extends_deadline and self._limit is not None:
            self._limit.restart()
        return True


class PoolProcess(Protocol):
    """What the pool needs of a process: a `WorkerProcess`, or a program that is resident."""

    hello: WorkerInfo
    jobs: int
    """Number of jobs done."""
    outgrown: bool
    """Whether it has to be replaced before `jobs` reaches its limit."""

    @property
    def pid(self) -> int:
        """Process id."""

    @property
    def alive(self) -> bool:
        """Return whether the process has not ended."""

    def attend(self, *, on_free: OnFree, on_lost: OnLost) -> None:
        """Call ``on_free`` after each reply, and ``on_lost`` with a reason at its end."""

    def begin(self, job: PendingJob) -> bool:
        """Give a job to this idle process; return False if it is gone."""

    def works_on(self, job: PendingJob) -> bool:
        """Return whether this is the job in progress."""

    def end(self, death: WorkerDied) -> None:
        """Kill the process and fail the job in progress."""

    def kill(self) -> None:
        """Send SIGKILL."""

    async def aclose(self) -> None:
        """End the process and wait for its end."""


class WorkerProcess:
    """A child process that does one job at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        hello: WorkerInfo,
        *,
        stderr_log: asyncio.Task[Any],
        max_cpu_s: float,
    ) -> None:
        """Use `proxy.rendering.pool.worker_start.start_worker`, then `attend`."""
        self._process = process
        self._max_cpu_s = max_cpu_s
        self._stderr_log = stderr_log
        self._connection = connection
        self._messages = MessageReader()
        self._job: PendingJob | None = None
        self.hello = hello
        self.jobs = 0
        """Number of jobs done."""
        self.outgrown = False
        """Whether it has to be replaced before `jobs` reaches its limit."""

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

    def _has_sent(self) -> bool:
        """Return whether a message, or the end of the process, waits to be received."""
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def begin(self, job: PendingJob) -> bool:
        """Give a job to this idle worker; return False if the worker is gone."""
        try:
            self._allow_cpu(self._max_cpu_s * job.renditions)
        except OSError:
            return False
        # An idle worker has nothing to send, and what it sent would be taken for its reply.
        if self._has_sent() or not job.send(self._connection):
            return False
        self._job = job
        job.worker_pid = self.pid
        return True

    def _allow_cpu(self, seconds: float) -> None:
        """Grant this much more CPU time; after that the kernel sends SIGXCPU.

        The deadline is shorter. This limit is for the case that the server itself hangs. The worker
        must not be able to raise its limits, so the server sets this one.

        Raises:
            OSError: the process has ended.
        """
        limit = math.ceil(cpu_time(self.pid) + seconds)
        # Denied in containers whose root lacks CAP_SYS_RESOURCE: only the deadline applies there.
        with contextlib.suppress(PermissionError):
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_CPU)
            bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            # Only the soft limit: without privileges the hard one can never be raised again.
            resource.prlimit(self.pid, resource.RLIMIT_CPU, (bound, hard))

    def works_on(self, job: PendingJob) -> bool:
        """Return whether this is the job in progress."""
        return self._job is job

    def _on_readable(self) -> None:
        """Receive the reply to the job in progress, or detect the end of the process."""
        try:
            datagram = self._connection.recv(MAX_DATAGRAM)
            reply = self._messages.feed(datagram, self._job.job if self._job else None)
        except BlockingIOError:
            return
        except OSError:
            # The kernel resets the connection if a process ends with a datagram still unread.
            self._lose(WorkerDied("crash", started=False))
        except ValueError:
            # An empty datagram is the end of the process.
            self._lose(WorkerDied("protocol" if datagram else "crash"))
        else:
            if reply is None:
                return
            # Also a reply that nobody waits for: it would be taken for that to the next job.
            if self._job is None or not self._job.accepts(reply):
                self._lose(WorkerDied("protocol"))
            else:
                self._free(self._job, reply)

    def _free(self, job: PendingJob, reply: Any) -> None:
        # Cleared first: `on_free` may give this worker its next job.
        self._job = None
        self.jobs += 1
        try:
            # The next job is sent before this reply is processed, so the worker does not wait.
            self._on_free(self)
        finally:
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
