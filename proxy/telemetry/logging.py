"""Logs: structured lines on standard error, as JSON or for a person's eyes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.typing import Processor

from proxy.settings import LogSettings

_GATHER_S = 0.25


def configure_logs(settings: LogSettings) -> None:
    """Set structlog up for the process; other libraries' warnings go the same way."""
    level = getattr(logging, settings.level.upper())
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*common, *_rendering(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_factory(settings),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    # Whether to colour, and what a traceback looks like, is decided where our own lines are made.
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings, _as_text),
            ],
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name],
        )
    )
    handler.addFilter(_worth_telling)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def _as_text(fields: object, **options: Any) -> str:
    """JSON as the standard library's handlers take it."""
    return orjson.dumps(fields, **options).decode()


def _worth_telling(record: logging.LogRecord) -> bool:
    """Leave out the tracebacks of a stranger's malformed request, and those of being stopped.

    The first would fill the log; the second come from the database's pool, whose connections end
    with the work that was cancelled.
    """
    kind = record.exc_info[0] if record.exc_info else None
    if kind is None:
        return True
    cancelled = issubclass(kind, asyncio.CancelledError)
    return not (cancelled or kind.__module__.startswith("aiohttp.http_exceptions"))


def _rendering(
    settings: LogSettings, serializer: Callable[..., str | bytes] = orjson.dumps
) -> list[Processor]:
    if settings.format == "console":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=serializer),
    ]


def _factory(settings: LogSettings) -> structlog.PrintLoggerFactory | structlog.BytesLoggerFactory:
    if settings.format == "console":
        return structlog.PrintLoggerFactory(sys.stderr)
    return structlog.BytesLoggerFactory(sys.stderr.buffer)


class AccessLog:
    """One line for each request, through structlog's renderers, written in batches.

    A line and a system call each would cost a hit more than all else together; so lines are
    gathered for a quarter of a second. A kill loses that much of them, a stop nothing.
    """

    def __init__(self, settings: LogSettings, stream: BinaryIO | None = None) -> None:
        """``stream`` is standard error where none is given."""
        self._stream = stream or sys.stderr.buffer
        self._render = _rendering(settings)[-1]
        self._timestamp = _Timestamp()
        self._lines: list[bytes] = []
        self._due: asyncio.TimerHandle | None = None

    def line(self, **fields: object) -> None:
        """Take a line in; to be called on the event loop."""
        event = {"event": "request", "level": "info", "timestamp": self._timestamp.now(), **fields}
        rendered = self._render(None, "info", event)
        text = rendered if isinstance(rendered, bytes) else str(rendered).encode()
        self._lines.append(text)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_GATHER_S, self.flush)

    def flush(self) -> None:
        """Write what is gathered; a stream that is gone takes its lines with it."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        lines, self._lines = self._lines, []
        if lines:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()


class _Timestamp:
    """ISO 8601 in UTC with milliseconds; all but these is made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        moment = time.time()
        second = int(moment)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((moment - second) * 1000):03d}Z"
