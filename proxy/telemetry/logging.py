"""Structured logs on standard error, as JSON or for a console, and the access log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.typing import Processor

from proxy.settings import LogSettings

_FLUSH_S = 0.25


def configure_logs(settings: LogSettings) -> None:
    """Configure structlog for the process, and send warnings of other libraries through it."""
    level = getattr(logging, settings.level.upper())
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*common, *_rendering(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=(
            structlog.PrintLoggerFactory(sys.stderr)
            if settings.format == "console"
            # orjson returns bytes: they are written without decoding and encoding them.
            else structlog.BytesLoggerFactory(sys.stderr.buffer)
        ),
        # Modules create their loggers at import; without this each call would build one anew.
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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


def _as_text(fields: object, **options: Any) -> str:
    """Return JSON as str, which handlers of the standard library need."""
    return orjson.dumps(fields, **options).decode()


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
    settings: LogSettings, serializer: Callable[..., str | bytes] = orjson.dumps
) -> list[Processor]:
    if settings.format == "console":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=serializer),
    ]


class AccessLog:
    """Writes one line per request, rendered by structlog's renderer, in batches.

    One system call per line would cost a cache hit more time than everything else together, so
    lines are collected for 0.25 s. If the process is killed, these lines are lost.
    """

    def __init__(self, settings: LogSettings, stream: BinaryIO | None = None) -> None:
        """``stream`` defaults to standard error."""
        self._stream = stream or sys.stderr.buffer
        # Only the renderer: a line has all its fields, and no exception.
        self._render = _rendering(settings)[-1]
        self._lines: list[bytes] = []
        self._due: asyncio.TimerHandle | None = None

    def line(self, **fields: object) -> None:
        """Add a line. Call it on the event loop."""
        event = {"event": "request", "level": "info", "timestamp": _timestamp(), **fields}
        rendered = self._render(None, "info", event)
        text = rendered if isinstance(rendered, bytes) else str(rendered).encode()
        self._lines.append(text)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write the collected lines; if the stream is closed or broken, they are dropped."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        lines, self._lines = self._lines, []
        if lines:
            # ValueError: the stream is closed. Requests are answered even if nobody reads the log.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()


def _timestamp() -> str:
    """Return the time as ISO 8601 in UTC with milliseconds."""
    moment = time.time()
    return f"{_second(int(moment))}.{int(moment % 1 * 1000):03d}Z"


# Many lines share a second, and strftime takes longer than the rest of the time stamp.
@lru_cache(maxsize=1)
def _second(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
