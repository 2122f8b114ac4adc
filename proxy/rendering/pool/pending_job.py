"""One attempt of a job: its datagram, the pipe for its output, and its reply."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from typing import Any, Self

from proxy.domain.errors import QueueFull, SourceTooLarge
from proxy.domain.worker_protocol import Job, JobFailure, RenditionSet, encode

Sink = Callable[[bytes], None]
"""Receives encoded bytes. Called on the event loop, so it must neither block nor raise."""

_PIPE_BYTES = 1024 * 1024
"""Pipe capacity: most renditions fit, so the worker does not wait for the server to read."""
_READ_BYTES = 256 * 1024


class WorkerDied(Exception):
    """The process ended or was killed before it replied.

    ``started`` is False if it had not read the job yet: then the source is not to blame.
    """

    def __init__(self, reason: str, *, started: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.started = started


class PendingJob:
    """A job that waits for a worker, then for its reply.

    Everything is prepared before a worker is free, so no worker waits. Use it as a context manager:
    the exit closes the pipe.
    """

    def __init__(
        self, job: Job[Any], source: int | None, sink: Sink, *, max_bytes: int = 0
    ) -> None:
        """Without a ``source`` (a `Ping`) there is no pipe; the descriptor remains the caller's."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._datagram = encode(job)
        self._source = source
        self._sink = sink
        self._max_bytes = max_bytes
        streams = isinstance(job, RenditionSet) and job.streams
        self._buffer: list[bytes] | None = None if streams else []
        self._extends_deadline = isinstance(job, RenditionSet) and job.framed
        self._deadline_s = 0.0
        self._deadline: asyncio.Timeout | None = None
        self._pipe: list[int] = []
        """The read end, then the write end until a worker has it."""
        self._reading = False
        self._received = 0
        self.worker: asyncio.Future[Any] = loop.create_future()
        """The `WorkerProcess` that has started the job."""
        self._reply: asyncio.Future[Any] = loop.create_future()

    @property
    def passed_on(self) -> bool:
        """Return whether the sink has received bytes; then the job cannot be repeated."""
        return self._received > 0 and self._buffer is None

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
        descriptors = [] if self._source is None else [self._source, self._pipe[1]]
        try:
            socket.send_fds(connection, [self._datagram], descriptors)
        except OSError:
            return False
        if self._pipe:
            # Only the worker may hold the write end: its close is the end of the output.
            os.close(self._pipe.pop())
            self._loop.add_reader(self._pipe[0], self._on_readable)
            self._reading = True
        return True

    async def result(self, deadline_s: float) -> Any:
        """Wait for the reply, at which all output has been passed to the sink.

        A framed set may take ``deadline_s`` for each piece of output, any other job in total.

        Raises:
            TimeoutError: the deadline passed.
            SourceTooLarge: the output exceeds the limit.
            WorkerDied: the worker ended.
        """
        self._deadline_s = deadline_s
        async with asyncio.timeout(deadline_s) as self._deadline:
            return await self._reply

    def finish(self, reply: Any) -> None:
        """Pass on the remaining output, then set the reply."""
        # The worker closes its end before it replies, so everything can be read without waiting.
        self._stop_reading()
        with contextlib.suppress(BlockingIOError):
            while self._pipe and self._read():
                pass
        if self._reply.done():
            return
        if self._buffer and not isinstance(reply, JobFailure):
            self._sink(b"".join(self._buffer))
        self._reply.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Set an exception instead of a reply."""
        if not self._reply.done():
            self._reply.set_exception(error)

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if not self._read():
                self._stop_reading()

    def _stop_reading(self) -> None:
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
        if self._buffer is None:
            self._sink(chunk)
        else:
            self._buffer.append(chunk)
        if self._extends_deadline and self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._loop.time() + self._deadline_s)
        return True
