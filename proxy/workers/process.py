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
from typing import Any

from proxy.jobs import MAX_DATAGRAM, Hello, Job, Ping, Result, decode, encode
from proxy.settings import WorkerSettings

Sink = Callable[[bytes], None]
"""Takes encoded bytes as they come; called on the event loop, must not block or raise."""

_PIPE_BYTES = 1024 * 1024
"""Room in the pipe, so that most renditions are written without waiting for the server."""

_READ_BYTES = 256 * 1024

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


class WorkerProcess:
    """A child process that does one job at a time."""

    def __init__(
        self, process: asyncio.subprocess.Process, connection: socket.socket, hello: Hello
    ) -> None:
        """Use `start`."""
        self._process = process
        self._connection = connection
        self.hello = hello
        self.jobs = 0
        """Jobs done so far."""

    @classmethod
    async def start(cls, settings: WorkerSettings, source_types: tuple[str, ...]) -> WorkerProcess:
        """Spawn a process and wait for its hello.

        Raises:
            WorkerDied: it did not come up in time.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                process = await _spawn(theirs.fileno(), settings, source_types)
            hello = await _greeted(process, ours, settings.start_timeout_s)
            undo.pop_all()
        return cls(process, ours, hello)

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

    async def run(self, job: Job, source: int, sink: Sink, *, deadline_s: float) -> Result:
        """Do a job; all encoded bytes have gone to ``sink`` when it returns.

        On any error, cancellation included, the process is killed: nobody knows its state.

        Raises:
            WorkerDied: it crashed (``crash``), took too long (``deadline``) or answered nonsense
                (``protocol``).
        """
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            self._order(job, source, read_end, write_end)
            async with asyncio.timeout(deadline_s):
                answer = await self._answer(read_end, sink)
        except TimeoutError:
            self.kill()
            raise WorkerDied("deadline") from None
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(read_end)
        self.jobs += 1
        return answer

    async def ping(self, *, deadline_s: float) -> None:
        """Return when an idle worker has answered.

        Raises:
            WorkerDied: it has not, and is killed.
        """
        try:
            self._connection.send(encode(Ping()))
            async with asyncio.timeout(deadline_s):
                await _receive(self._connection)
        except OSError as error:
            # TimeoutError is one of them.
            self.kill()
            raise WorkerDied("deadline", begun=False) from error

    def _order(self, job: Job, source: int, read_end: int, write_end: int) -> None:
        """Send a job with its descriptors; only the worker holds the pipe's write end then."""
        try:
            _prepare_pipe(read_end)
            socket.send_fds(self._connection, [encode(job)], [source, write_end])
        except OSError as error:
            raise WorkerDied("crash", begun=False) from error
        finally:
            os.close(write_end)

    async def _answer(self, read_end: int, sink: Sink) -> Result:
        """Pass bytes on until the answer is there, then what is left of them."""
        loop = asyncio.get_running_loop()

        def pass_on() -> None:
            with contextlib.suppress(BlockingIOError):
                if not _pass_on(read_end, sink):
                    loop.remove_reader(read_end)

        loop.add_reader(read_end, pass_on)
        try:
            answer: Result = await _receive(self._connection)
        finally:
            loop.remove_reader(read_end)
        with contextlib.suppress(BlockingIOError):
            while _pass_on(read_end, sink):
                pass
        return answer

    def kill(self) -> None:
        """End the process at once."""
        _kill(self._process)

    async def aclose(self) -> None:
        """Close the socket, which ends an idle process; kill it where it does not go by itself."""
        self._connection.close()
        try:
            async with asyncio.timeout(1):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _spawn(
    descriptor: int, settings: WorkerSettings, source_types: tuple[str, ...]
) -> asyncio.subprocess.Process:
    """Start the child in a session of its own, so that Ctrl-C reaches the server alone."""
    orders: dict[str, Any] = {
        "source_types": source_types,
        "max_memory_bytes": settings.max_memory_bytes,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-m", "proxy.worker", str(descriptor), json.dumps(orders)),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env=_ENVIRONMENT,
        start_new_session=True,
    )


async def _greeted(
    process: asyncio.subprocess.Process, connection: socket.socket, timeout_s: float
) -> Hello:
    """The hello of a new process; one that does not say it is ended and waited for."""
    try:
        async with asyncio.timeout(timeout_s):
            hello: Hello = await _receive(connection)
    except BaseException as error:
        _kill(process)
        await process.wait()
        if isinstance(error, TimeoutError):
            raise WorkerDied("start") from None
        raise
    return hello


async def _receive(connection: socket.socket) -> Any:
    """The next datagram's message; an end of the socket or nonsense means that the worker died.

    The kernel resets the connection of a process that ends with an order still unread, and closes
    that of one which had read it.
    """
    try:
        datagram = await asyncio.get_running_loop().sock_recv(connection, MAX_DATAGRAM)
        if not datagram:
            raise WorkerDied("crash")
        return decode(datagram)
    except OSError as error:
        raise WorkerDied("crash", begun=False) from error
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
