"""Structured logs on standard error, as JSON or for a console, and the access log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor

from proxy.domain.request import Outcome
from proxy.settings import LogSettings

_FLUSH_S = 0.25
_MAX_QUEUE_BYTES = 4 * 1024 * 1024
_WRITE_BYTES = 64 * 1024
"""Size of one write: what a pipe holds, so that little besides the queue is old."""
_EXIT_S = 2.0


def _json(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return JSON of a value with any text.

    ``default`` converts what JSON has no form for.
    """
    try:
        return orjson.dumps(value, default)
    # Bytes of a client that are no UTF-8 are surrogates in text, which orjson refuses.
    except TypeError:
        return json.dumps(value, default=default, separators=(",", ":")).encode()


class LogWriter:
    """Writes lines to standard error: at once, or in the background by a thread.

    If nobody reads standard error, a write to the full pipe blocks. The queue is bounded: the
    oldest lines are dropped, counted, and reported by one line when the reader returns.
    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        """``stream`` defaults to standard error."""
        self._stream = stream
        self._render: Processor = structlog.processors.JSONRenderer(serializer=_json)
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._writing = False
        self._dropped = 0
        self._reported = 0
        # Reentrant: a destructor that the garbage collector runs here may log.
        self._changed = threading.Condition(threading.RLock())
        self._queued = False
        """Whether a thread writes."""

    @contextmanager
    def in_background(self, *, shared: bool = False) -> Iterator[None]:
        """Write in a daemon thread while the block runs, also what is printed on `sys.stderr`.

        ``shared``: other processes write to the same pipe, so lines are written in pieces that the
        kernel does not mix with theirs (pipe(7)).

        At the end, lines that wait have two seconds. If they were not written, nobody reads, and
        the thread keeps all further lines from blocking the end of the process.
        """
        original = sys.stderr
        try:
            # The descriptor and not the stream: a thread that is blocked in a buffered stream
            # holds its lock, which the interpreter acquires at exit.
            descriptor = (self._stream or original).fileno()
        # Standard error is closed or replaced: then nothing can block.
        except (AttributeError, OSError):
            yield
            return
        arguments = (descriptor, select.PIPE_BUF if shared else 0)
        run = threading.Thread(target=self._run, args=arguments, name="log", daemon=True)
        self._queued = True
        if self._stream is None:
            sys.stderr = _TextStream(self, terminal=original.isatty())
        run.start()
        try:
            yield
        finally:
            if self.drain(_EXIT_S):
                self._queued = False
                sys.stderr = original
                with self._changed:
                    self._changed.notify_all()

    def configure(self, render: Processor) -> None:
        """Set the renderer of the line that reports dropped lines."""
        self._render = render

    def write(self, text: bytes) -> None:
        """Write or queue whole lines; never raises, and never blocks in `in_background`."""
        if not self._queued:
            self._write_at_once(text)
            return
        with self._changed:
            self._queue.append(text)
            self._size += len(text)
            while self._size > _MAX_QUEUE_BYTES:
                oldest = self._queue.popleft()
                self._size -= len(oldest)
                self._drop(oldest)
            self._changed.notify_all()

    def flush(self) -> None:
        """Do nothing: `write` has flushed. structlog calls this."""

    def drain(self, timeout_s: float) -> bool:
        """Wait until all lines are written; return False if they were not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._queue or self._writing), timeout_s)

    def statistics(self) -> Mapping[str, float]:
        """Return the number of dropped lines."""
        return {"dropped": self._dropped}

    def _write_at_once(self, text: bytes) -> None:
        stream = self._stream or getattr(sys.stderr, "buffer", None)
        try:
            # None if the process was started with a closed standard error.
            if stream is not None:
                stream.write(text)
                stream.flush()
        # ValueError: the stream is closed. Requests are answered even if nobody reads the log.
        except (OSError, ValueError):
            self._drop(text)

    def _run(self, descriptor: int, piece_bytes: int) -> None:
        while self._queued:
            text, dropped = self._next()
            report = b""
            if dropped > self._reported:
                fields = {
                    "lines": dropped - self._reported,
                    "timestamp": _timestamp(_milliseconds()),
                }
                report = _line(self._render, "log_lines_dropped", level="warning", **fields)
            try:
                for piece in _pieces(report + text, piece_bytes):
                    _write_all(descriptor, piece)
            # The reader has closed its end, or the disk is full.
            except OSError:
                self._drop(text)
            else:
                self._reported = dropped

    def _next(self) -> tuple[bytes, int]:
        """Wait for lines; return the oldest, and the number of lines dropped before them."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._queue or not self._queued)
            self._writing = bool(self._queue)
            text = b""
            while self._queue and (not text or len(text) + len(self._queue[0]) <= _WRITE_BYTES):
                oldest = self._queue.popleft()
                self._size -= len(oldest)
                text += oldest
            return text, self._dropped

    def _drop(self, text: bytes) -> None:
        with self._changed:
            self._dropped += text.count(b"\n")


class _TextStream(io.TextIOBase):
    """`sys.stderr` while a thread writes: for warnings and for tracebacks of the interpreter."""

    def __init__(self, writer: LogWriter, *, terminal: bool) -> None:
        super().__init__()
        self._writer = writer
        self._terminal = terminal

    def isatty(self) -> bool:
        """Return whether lines may have colours."""
        return self._terminal

    def write(self, text: str) -> int:
        """Queue text."""
        self._writer.write(text.encode(errors="backslashreplace"))
        return len(text)


class _Handler(logging.Handler):
    """Passes log records of other libraries to the writer."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        OUTPUT.write(self.format(record).encode(errors="backslashreplace") + b"\n")


def _pieces(text: bytes, piece_bytes: int) -> Iterator[bytes]:
    """Yield whole lines, of up to this many bytes together; 0 means no limit."""
    piece = b""
    for line in text.splitlines(keepends=True) if piece_bytes else ():
        if piece and len(piece) + len(line) > piece_bytes:
            yield piece
            piece = b""
        piece += line
    if last := piece if piece_bytes else text:
        yield last


def _write_all(descriptor: int, text: bytes) -> None:
    """Write everything, also to a descriptor that another process has set to non-blocking.

    Raises:
        OSError: the descriptor cannot be written to.
    """
    rest = memoryview(text)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


OUTPUT = LogWriter()
"""The log of this process."""


def _with_pid(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add the process id to events with a category, those of metadata."""
    if "category" in event:
        event["pid"] = os.getpid()
    return event


def configure_logs(settings: LogSettings) -> None:
    """Configure structlog for the process, and send warnings of other libraries through it."""
    level = getattr(logging, settings.level.upper())
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_pid,
    ]
    structlog.configure(
        processors=[*common, *_rendering(settings), _encoded],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", OUTPUT)),
        # Modules create their loggers at import; without this each call would build one anew.
        cache_logger_on_first_use=True,
    )
    OUTPUT.configure(_rendering(settings)[-1])
    handler = _Handler()
    # The same processors as for structlog, so that colours and tracebacks look the same.
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings, _as_text),
            ],
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name],
        )
    )
    handler.addFilter(_is_relevant)
    # At least warnings: at level info SQLAlchemy logs each query.
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def _encoded(_logger: object, _method: str, line: Any) -> bytes:
    """Encode a rendered line; orjson returns bytes, which need no encoding."""
    return line if isinstance(line, bytes) else str(line).encode(errors="backslashreplace")


def _line(render: Processor, event: str, **fields: Any) -> bytes:
    """Return a line without the processors of structlog, ended by a line feed."""
    return _encoded(None, "", render(None, "", {"event": event, **fields})) + b"\n"


def _as_text(fields: object, **options: Any) -> str:
    """Return JSON as str, which handlers of the standard library need."""
    return _json(fields, **options).decode()


def _is_relevant(record: logging.LogRecord) -> bool:
    """Return False for tracebacks of malformed requests and of cancelled work.

    Clients could fill the log with the former. The latter come from the database pool, whose
    connections are closed when the work that uses them is cancelled.
    """
    kind = record.exc_info[0] if record.exc_info else None
    if kind is None:
        return True
    cancelled = issubclass(kind, asyncio.CancelledError)
    return not (cancelled or kind.__module__.startswith("aiohttp.http_exceptions"))


def _rendering(
    settings: LogSettings, serializer: Callable[..., str | bytes] = _json
) -> list[Processor]:
    if settings.format == "console":
        # The default prints local variables, which may be keys, where rich is imported.
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty()
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=serializer),
    ]


class AccessLog:
    """Writes one line per request, in the format of all other lines, in batches.

    One system call per line would cost a cache hit more time than everything else together, so
    lines are collected for 0.25 s. If the process is killed, these lines are lost.
    """

    def __init__(self, settings: LogSettings, output: LogWriter = OUTPUT) -> None:
        """``output`` receives the lines."""
        self._output = output
        # Only the renderer: a line has all its fields, and no exception.
        self._render = None if settings.format == "json" else _rendering(settings)[-1]
        self._lines: list[bytes] = []
        self._due: asyncio.TimerHandle | None = None
        self._milliseconds = 0
        self._now = ""

    def line(  # noqa: PLR0913 - one for each field of a line
        self,
        *,
        request_id: str,
        remote: str | None,
        method: str,
        target: str,
        status: int,
        sent: int,
        seconds: float,
        outcome: Outcome,
        trace_id: str | None = None,
    ) -> None:
        """Add a line; ``sent`` is the number of bytes of the body. Call it on the event loop."""
        milliseconds = _milliseconds()
        # Many lines share a millisecond.
        if milliseconds != self._milliseconds:
            self._milliseconds, self._now = milliseconds, _timestamp(milliseconds)
        source, fmt, media_id = outcome.source, outcome.format, outcome.media_id
        if self._render is None:
            # Written out: a renderer takes three times as long. Each text that a client can choose
            # is encoded by itself; the others are of closed sets.
            text = _LINE % (
                self._now.encode(),
                request_id.encode(),
                _json(remote),
                _json(method),
                _json(target),
                status,
                sent,
                seconds,
                source.encode(),
                fmt.encode(),
                b"null" if media_id is None else b"%d" % media_id,
                b"" if trace_id is None else b',"trace_id":"%b"' % trace_id.encode(),
            )
        else:
            fields: dict[str, object] = {
                "timestamp": self._now,
                "request_id": request_id,
                "remote": remote,
                "method": method,
                "target": target,
                "status": status,
                "bytes": sent,
                "seconds": round(seconds, 6),
                "source": source,
                "format": fmt,
                "media_id": media_id,
                **({} if trace_id is None else {"trace_id": trace_id}),
            }
            text = _line(self._render, "request", level="info", **fields)
        self._lines.append(text)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Pass the collected lines on."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        lines, self._lines = self._lines, []
        if lines:
            self._output.write(b"".join(lines))


_LINE = (
    b'{"event":"request","level":"info","timestamp":"%b","request_id":"%b","remote":%b,'
    b'"method":%b,"target":%b,"status":%d,"bytes":%d,"seconds":%.6f,"source":"%b","format":"%b",'
    b'"media_id":%b%b}\n'
)


def _milliseconds() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def _timestamp(milliseconds: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds."""
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


# Many lines share a second, and strftime takes longer than the rest of the time stamp.
@lru_cache(maxsize=1)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
