"""One worker process, seen from the server: its socket, its jobs, its end.

The server opens the source and makes a pipe; the worker gets both descriptors with its order, so
that it needs to open nothing. Bytes come through the pipe while the worker encodes, its answer as
one datagram at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from proxy.domain.errors import QueueFull
from proxy.domain.worker_protocol import (
    MAX_DATAGRAM,
    Job,
    JobFailure,
    Ping,
    RenderSetJob,
    WorkerInfo,
    decode,
    encode,
)
from proxy.rendering.pool.stderr_log import pass_on
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor, cancel

Sink = Callable[[bytes], None]
"""Takes encoded bytes as they come; called on the event loop, must not block or raise."""

OnFree = Callable[["WorkerProcess"], None]
OnLost = Callable[["WorkerProcess", str], None]

_PIPE_BYTES = 1024 * 1024
"""Room in the pipe, so that most renditions are written without waiting for the server."""

_READ_BYTES = 256 * 1024
_LAST_LINES_S = 1.0
"""How long the end of a process waits for the rest of its standard error."""

_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "VIPS_CONCURRENCY": "1",
    "VIPS_WARNING": "0",
}
"""All of a worker's environment: nothing of the server's; libvips says what is wrong as an error,
and does not print it for every damaged picture."""


class WorkerDied(Exception):
    """The process ended, or was killed, before it had answered; ``reason`` says which.

    ``begun`` is false where it had not even read its order: then the picture is not to blame.
    """

    def __init__(self, reason: str, *, begun: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.begun = begun


class WorkerUnfit(Exception):
    """The process came up and says that it is not fit to work; the text says why."""


@dataclass(frozen=True, slots=True)
class WorkerStartOptions:
    """What a process is told as it starts, as JSON on its command line."""

    source_types: tuple[str, ...]
    """What its loaders may open."""
    max_memory_bytes: int
    max_cpu_s: float
    """Of the processor, for one rendition."""
    sandbox: bool
    """Whether it locks itself in."""
    uid: int
    """The user that it becomes where it is root."""
    nice: int
    """By how much it stands back behind the server, as of nice(2)."""
    idle: bool
    """Whether it works only when nobody else does."""


class PendingJob:
    """A job on its way through a worker: its text, the pipe for its bytes, and its answer.

    All of it is ready before a worker is free. ``with`` closes what is left of it in the end.
    """

    def __init__(self, message: Job | Ping, source: int | None, sink: Sink) -> None:
        """The descriptor stays the caller's; a `Ping` has none, and no pipe."""
        loop = asyncio.get_running_loop()
        self._sources = [] if source is None else [source]
        self._sink = sink
        self._datagram = encode(message)
        self.is_set = isinstance(message, RenderSetJob)
        self._ends: list[int] = []
        self._reading = False
        self.begun: asyncio.Future[WorkerProcess] = loop.create_future()
        """The worker that has it, once there is one."""
        self.answer: asyncio.Future[Any] = loop.create_future()
        """The result; then all encoded bytes have gone to the sink."""

    def __enter__(self) -> Self:
        """Make the pipe; a QueueFull where no descriptor is left for it."""
        if self._sources:
            try:
                self._ends = list(os.pipe2(os.O_CLOEXEC))
            except OSError as error:
                raise QueueFull("too many files are open", retry_after_s=1) from error
            _prepare_pipe(self._ends[0])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pipe; a failure that nobody has asked for is no one's."""
        self._stop_reading()
        for end in self._ends:
            os.close(end)
        self._ends = []
        self.answer.cancel()
        if not self.answer.cancelled():
            self.answer.exception()

    def send(self, connection: socket.socket) -> bool:
        """Send it with its descriptors; only the worker holds the pipe's write end then."""
        try:
            socket.send_fds(connection, [self._datagram], [*self._sources, *self._ends[1:]])
        except OSError:
            return False
        if self._ends:
            os.close(self._ends.pop())
            asyncio.get_running_loop().add_reader(self._ends[0], self._pass_on)
            self._reading = True
        return True

    def _pass_on(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if not _pass_on(self._ends[0], self._sink):
                self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._ends[0])

    def finish(self, answer: Any) -> None:
        """Pass on what is left of the bytes, then give the answer."""
        self._stop_reading()
        with contextlib.suppress(BlockingIOError):
            while self._ends and _pass_on(self._ends[0], self._sink):
                pass
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, death: WorkerDied) -> None:
        """Its worker has ended."""
        if not self.answer.done():
            self.answer.set_exception(death)


class WorkerProcess:
    """A child process that does one job at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: socket.socket,
        hello: WorkerInfo,
        *,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """Use `start`, then `attend`."""
        self._process = process
        self._printed = supervisor.start(BackgroundTask.WORKER_STDERR, partial(_passed_on, process))
        self._connection = connection
        self._order: PendingJob | None = None
        self.hello = hello
        self.jobs = 0
        """Jobs done so far."""

    @classmethod
    async def start(
        cls,
        orders: WorkerStartOptions,
        *,
        timeout_s: float,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> WorkerProcess:
        """Spawn a process and wait for its hello.

        Raises:
            WorkerDied: it did not come up in time.
            WorkerUnfit: it says that it is not fit to work.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                process = await _spawn(theirs.fileno(), orders)
            hello = await _greeted(process, ours, timeout_s)
            undo.pop_all()
        return cls(process, ours, hello, supervisor=supervisor)

    def attend(self, *, on_free: OnFree, on_lost: OnLost) -> None:
        """Listen to the worker from now on.

        ``on_free`` is called when it has answered and can take another order, ``on_lost`` with a
        reason when it ended by itself or answered nonsense; both on the loop.
        """
        self._on_free = on_free
        self._on_lost = on_lost
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._readable)

    @property
    def pid(self) -> int:
        """Process id, for logs and for drills."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet.

        Its end of the socket tells at once; the exit status comes a turn of the loop later, and a
        job given to a dead worker in between would be held against the picture.
        """
        try:
            return bool(self._connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def begin(self, order: PendingJob) -> bool:
        """Hand an order over to an idle worker; False where it cannot take one any more."""
        if not self.alive or not order.send(self._connection):
            return False
        self._order = order
        return True

    def works_on(self, order: PendingJob) -> bool:
        """Whether this order is the one at work."""
        return self._order is order

    def _readable(self) -> None:
        """Take the answer to the order at work, or learn of the worker's end."""
        try:
            answer = _message(self._connection.recv(MAX_DATAGRAM))
        except BlockingIOError:
            return
        except OSError:
            # The kernel resets the connection of a process that ends with an order still unread.
            self._lose(WorkerDied("crash", begun=False))
        except WorkerDied as death:
            self._lose(death)
        else:
            self._free(answer)

    def _free(self, answer: Any) -> None:
        """The next order leaves before the answer is looked after: so the worker does not wait."""
        order, self._order = self._order, None
        self.jobs += 1
        try:
            self._on_free(self)
        finally:
            if order is not None:
                order.finish(answer)

    def _lose(self, death: WorkerDied) -> None:
        """Tell the pool, and whoever waits for the order at work; the process is of no more use."""
        self.end(death)
        self._on_lost(self, death.reason)

    def end(self, death: WorkerDied) -> None:
        """Kill the process, whose state nobody knows, and fail the order at work."""
        self.kill()
        self._deaf()
        order, self._order = self._order, None
        if order is not None:
            order.fail(death)

    def _deaf(self) -> None:
        if self._connection.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())

    def kill(self) -> None:
        """End the process at once."""
        _kill(self._process)

    async def aclose(self) -> None:
        """Close the socket, which ends an idle process; kill it where it does not go by itself."""
        self._deaf()
        self._connection.close()
        try:
            async with asyncio.timeout(1):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        # A read that keeps failing is restarted without end; the process has nothing left to say.
        await asyncio.wait([self._printed], timeout=_LAST_LINES_S)
        await cancel(self._printed)


async def _passed_on(process: asyncio.subprocess.Process) -> None:
    if process.stderr is not None:
        await pass_on(process.stderr, process.pid)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _spawn(descriptor: int, orders: WorkerStartOptions) -> asyncio.subprocess.Process:
    """Start the child in a session of its own, so that Ctrl-C reaches the server alone."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-I",
            "-m",
            "proxy.rendering.worker",
            str(descriptor),
            json.dumps(asdict(orders)),
        ),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(descriptor,),
        env=_ENVIRONMENT,
        start_new_session=True,
    )


async def _greeted(
    process: asyncio.subprocess.Process, connection: socket.socket, timeout_s: float
) -> WorkerInfo:
    """The hello of a new process; one that does not say it is ended and waited for."""
    try:
        async with asyncio.timeout(timeout_s):
            return _fit(await _receive(connection))
    except BaseException as error:
        _kill(process)
        await process.wait()
        await _passed_on(process)
        if isinstance(error, TimeoutError):
            raise WorkerDied("start") from None
        raise


def _fit(hello: WorkerInfo | JobFailure) -> WorkerInfo:
    if isinstance(hello, JobFailure):
        raise WorkerUnfit(hello.detail)
    return hello


async def _receive(connection: socket.socket) -> Any:
    try:
        return _message(await asyncio.get_running_loop().sock_recv(connection, MAX_DATAGRAM))
    except OSError as error:
        raise WorkerDied("crash", begun=False) from error


def _message(datagram: bytes) -> Any:
    """The message of a datagram; an end of the socket or nonsense means that the worker died."""
    if not datagram:
        raise WorkerDied("crash")
    try:
        return decode(datagram)
    except (ValueError, TypeError) as error:
        raise WorkerDied("protocol") from error


def _prepare_pipe(read_end: int) -> None:
    os.set_blocking(read_end, False)
    # Past the user's pipe quota the kernel refuses; the default size then does.
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _pass_on(read_end: int, sink: Sink) -> bool:
    """Read once and pass it on; False at the end. Raises BlockingIOError where nothing is there."""
    chunk = os.read(read_end, _READ_BYTES)
    if chunk:
        sink(chunk)
    return bool(chunk)
