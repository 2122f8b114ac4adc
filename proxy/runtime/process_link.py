"""Messages between the parent and a server process, and starting such a process.

A message is one line of JSON on a stream socket. Both sides may send at any time; a request has an
id, which its reply repeats.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Self

import orjson
import structlog

from proxy.runtime.deferred_json import dumps

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A snapshot of all metrics has 0.1 to 1 MB."""
_MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""Notices to a process that reads nothing are dropped above this."""
_PR_SET_PDEATHSIG = 1

Handler = Callable[[Any], Awaitable[Any]]

log = structlog.get_logger(__name__)


class ProcessLink:
    """One end of the connection. `run` passes what arrives to handlers, by the kind of message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        # The loop itself keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Use a connected stream socket, which the link closes."""
        end.setblocking(False)  # noqa: FBT003 - the socket's own signature
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_MAX_MESSAGE_BYTES))

    def send(self, kind: str, value: object = None) -> bool:
        """Send a notice without waiting; return False if the other side reads nothing."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            return False
        self._write({"kind": kind, "value": value})
        return True

    async def request(self, kind: str, *, timeout_s: float) -> Any:
        """Return the reply to a request.

        Raises:
            TimeoutError: there was none in time, or the other side has ended.
        """
        number = next(self._ids)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"kind": kind, "id": number})
            async with asyncio.timeout(timeout_s):
                return await reply
        finally:
            del self._replies[number]

    async def run(self, handlers: Mapping[str, Handler]) -> None:
        """Handle messages until the other side has ended; requests are answered concurrently."""
        with suppress(ConnectionError):
            # A process that is killed may leave the beginning of a message.
            while (line := await self._reader.readline()).endswith(b"\n"):
                self._receive(orjson.loads(line), handlers)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(TimeoutError("the process has ended"))

    def _receive(self, message: dict[str, Any], handlers: Mapping[str, Handler]) -> None:
        kind, number = message["kind"], message.get("id")
        if kind == "reply":
            waiting = self._replies.get(number) if number is not None else None
            # Without one, its request has timed out.
            if waiting is not None and not waiting.done():
                waiting.set_result(message["value"])
        elif handler := handlers.get(kind):
            task = asyncio.create_task(self._handle(handler, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            # A process of another version, during an upgrade.
            log.warning("process_message_unknown", kind=kind)

    async def _handle(self, handler: Handler, message: dict[str, Any]) -> None:
        try:
            value = await handler(message.get("value"))
        except Exception:
            # A faulty message costs only itself; its request times out.
            log.exception("process_message_failed", kind=message["kind"])
            return
        if "id" in message:
            self._write({"kind": "reply", "id": message["id"], "value": value})

    def _write(self, message: Mapping[str, Any]) -> None:
        if not self._writer.transport.is_closing():
            self._writer.write(dumps(message) + b"\n")

    async def flush(self) -> None:
        """Wait until everything is sent, if the other side reads it."""
        with suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        """Close the connection; what is unsent is still sent."""
        for task in self._tasks:
            task.cancel()
        self._writer.close()


def start_process(module: str, order: bytes, descriptors: Iterable[int]) -> subprocess.Popen[bytes]:
    """Start a Python module as a process that inherits the descriptors under their numbers.

    It reads ``order`` on its standard input, which may contain secrets: other users see the
    arguments of a process. It has the standard output and error of this process.
    """
    with open(os.memfd_create("order"), "w+b") as file:  # noqa: PTH123 - a descriptor has no path
        file.write(order)
        file.seek(0)
        # Only the parent sends notifications to the service manager. -P: no modules of the working
        # directory.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
        }
        return subprocess.Popen(  # noqa: S603 - a module of this program
            [sys.executable, "-P", "-m", module],
            stdin=file,
            pass_fds=tuple(descriptors),
            env=environment,
            # A session of its own: the terminal sends Ctrl-C to the parent alone.
            start_new_session=True,
        )


def read_order() -> bytes:
    """Return what `start_process` was given, and replace the standard input by an empty file."""
    with open(0, "rb", closefd=False) as file:
        order = file.read()
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return order


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exit if that has happened.

    Call it in the main thread. Nothing can outlive the parent then, not even a stopped process,
    which would hold the port.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # It may have ended before the call.
    if os.getppid() != parent:
        raise SystemExit(1)


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait until a process has ended; return its exit code, or the negative signal number."""
    loop = asyncio.get_running_loop()
    # A readable pidfd means that the process has ended: no thread and no SIGCHLD handler is needed.
    descriptor = os.pidfd_open(process.pid)
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()
