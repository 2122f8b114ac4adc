"""Spans of requests and background work, recorded only while tracing is enabled.

While it is disabled, every function here returns at once and OpenTelemetry is never imported: it
takes 0.2 s and 20 MB with its SDK. A span is recorded only inside a sampled request or background
job, whose span `current_context` returns.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from structlog.contextvars import bound_contextvars

from proxy.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as Span
    from opentelemetry.trace import SpanContext as SpanContext
    from opentelemetry.trace import SpanKind, Tracer

_CLOCK_STEP_NS = 500_000_000

_OUTCOMES = ("sent", "queue_full", "failed")

Attributes = Mapping[str, str | int | float | bool]

_MAX_LINKS = 1000
"""Remembered spans that a later one may link to."""


@dataclass(slots=True)
class TracingState:
    """Set while tracing is enabled.

    Code on the request path checks `tracer` before it calls a function of this module, so that a
    server without tracing makes no such call.
    """

    tracer: Tracer | None = None
    epoch_ns: int = 0
    """Nanoseconds since 1970 at the zero of time.perf_counter."""


STATE = TracingState()


@dataclass(frozen=True, slots=True)
class Tracing:
    """Tracing as the settings define it; all fields keep their defaults while it is disabled."""

    enabled: bool = False
    honour_parent: bool = False
    statistics: Callable[[], Mapping[str, float]] = lambda: dict.fromkeys(_OUTCOMES, 0.0)
    """Spans by outcome: ``sent``, ``queue_full`` or ``failed``."""


OFF = Tracing()


@asynccontextmanager
async def open_tracing(settings: TracingSettings) -> AsyncIterator[Tracing]:
    """Record spans while the block runs; at its end, send what is queued within ``flush_s``.

    Raises:
        ConfigurationError: an ``OTEL_*`` variable has an invalid value.
    """
    if not settings.enabled:
        yield OFF
        return
    from proxy.telemetry.tracing.exporter import Exporter  # noqa: PLC0415 - see above

    exporter = Exporter(settings)
    # Restored afterwards, as a process may run several servers, which tests do.
    before, STATE.tracer = STATE.tracer, exporter.tracer
    try:
        yield Tracing(
            enabled=True, honour_parent=settings.honour_parent, statistics=exporter.statistics
        )
    finally:
        STATE.tracer = before
        await exporter.aclose()


def current_context() -> SpanContext | None:
    """Return the identity of the sampled request or job that runs now, or None."""
    if STATE.tracer is None:
        return None
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - imported by now

    # Not `is_recording`: work goes on after the answer is sent and its span has ended.
    context = get_current_span().get_span_context()
    return context if context.trace_flags.sampled else None


def current_trace_id() -> str:
    """Return the trace id as in logs and exemplars; empty outside a sampled trace."""
    context = current_context()
    return "" if context is None else trace_id(context)


def trace_id(context: SpanContext) -> str:
    """Return a trace id as 32 hexadecimal digits."""
    return f"{context.trace_id:032x}"


class _NoSpan:
    """Replaces a span outside a sampled trace."""

    def set_attribute(self, key: str, value: str | float) -> None:
        """Do nothing."""


_NO_SPAN = nullcontext(_NoSpan())


def span(name: str) -> AbstractContextManager[Span | _NoSpan]:
    """Record the block as a part of the current trace. An exception makes it an error."""
    return _NO_SPAN if current_context() is None else _recorded(name)


@contextmanager
def _recorded(name: str) -> Iterator[Span]:
    recorded = start(name, time.perf_counter())
    # A cancellation is no error of a part: the client has left.
    with ended_by(lambda error: finish(recorded, error=error), failures=Exception):
        yield recorded


@contextmanager
def ended_by(
    end: Callable[[str | None], object], *, failures: type[BaseException] = BaseException
) -> Iterator[None]:
    """Call ``end`` after the block, with the type of the failure that ended it or None."""
    error = None
    try:
        yield
    except failures as raised:
        error = type(raised).__name__
        raise
    finally:
        end(error)


def record(
    name: str,
    began: float,
    ended: float | None = None,
    *,
    parent: Span | None = None,
    attributes: Attributes | None = None,
    links: Sequence[SpanContext | None] = (),
    error: str | None = None,
) -> Span | None:
    """Record a part of the current trace that has ended; times are those of time.perf_counter."""
    if current_context() is None:
        return None
    recorded = start(name, began, parent=parent, attributes=attributes, links=links)
    finish(recorded, ended, error=error)
    return recorded


def start(
    name: str,
    began: float,
    *,
    parent: Span | None = None,
    root: Context | None = None,
    kind: SpanKind | None = None,
    attributes: Attributes | None = None,
    links: Sequence[SpanContext | None] = (),
) -> Span:
    """Start a span below the current one, below ``parent``, or as the first one here of a trace.

    ``root`` is the context of the latter: empty, or with the span of a client.
    """
    from opentelemetry import trace as api  # noqa: PLC0415

    if STATE.tracer is None:
        return api.INVALID_SPAN
    context = root
    if root is not None:
        # Kept unless the clock was stepped: spans of one trace must be consistent, and a thread
        # switch between these two calls would shift them against each other.
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        if abs(epoch_ns - STATE.epoch_ns) > _CLOCK_STEP_NS:
            STATE.epoch_ns = epoch_ns
    elif parent is not None:
        context = api.set_span_in_context(parent)
    return STATE.tracer.start_span(
        name,
        context,
        kind or api.SpanKind.INTERNAL,
        attributes,
        [api.Link(link) for link in links if link is not None],
        _ns(began),
    )


def start_server_span(began: float, traceparents: Sequence[str]) -> Span | None:
    """Start the span of a request that arrived at ``began``; None if it is not sampled.

    A valid traceparent (W3C Trace Context, 3.2) continues the client's trace and its sampling
    decision. Several fields are invalid.
    """
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import SpanKind  # noqa: PLC0415
    from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

    root = Context()
    if len(traceparents) == 1:
        # An invalid field leaves the context empty.
        extract = tracecontext.TraceContextTextMapPropagator().extract
        root = extract({"traceparent": traceparents[0]}, root)
    recorded = start("HTTP", began, root=root, kind=SpanKind.SERVER)
    return recorded if recorded.get_span_context().trace_flags.sampled else None


def finish(recorded: Span, ended: float | None = None, *, error: str | None = None) -> None:
    """End a span. ``error`` is the type of an error, as its text may repeat client input."""
    if error is not None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        recorded.set_status(Status(StatusCode.ERROR, error))
    recorded.end(_ns(time.perf_counter() if ended is None else ended))


def _ns(moment: float) -> int:
    return STATE.epoch_ns + int(moment * 1e9)


@contextmanager
def within(recorded: Span) -> Iterator[None]:
    """Make a span the current one, and add its trace id to all log lines of the block."""
    from opentelemetry.trace import use_span  # noqa: PLC0415

    identity = trace_id(recorded.get_span_context())
    with (
        use_span(recorded, record_exception=False, set_status_on_exception=False),
        bound_contextvars(trace_id=identity),
    ):
        yield


@contextmanager
def background_span(
    name: str, attributes: Attributes, *, cause: SpanContext | None = None
) -> Iterator[SpanContext | None]:
    """Record the block as a trace of its own, linked to ``cause``; yield its identity.

    A span with a cause is always sampled, as its cause was; otherwise the ratio decides.
    """
    if STATE.tracer is None:
        yield None
        return
    from opentelemetry.context import Context  # noqa: PLC0415

    first = start(name, time.perf_counter(), root=Context(), attributes=attributes, links=[cause])
    context = first.get_span_context()
    if not context.trace_flags.sampled:
        yield None
        return
    with ended_by(lambda error: finish(first, error=error)), within(first):
        yield context


class SpanChain:
    """Background spans that link to the previous span with the same key, if it is remembered."""

    def __init__(self) -> None:
        self._last: LRUCache[int, Any] = LRUCache(_MAX_LINKS)

    @contextmanager
    def span(self, name: str, key: int, attributes: Attributes) -> Iterator[None]:
        """Record the block; see `background_span`."""
        with background_span(name, attributes, cause=self._last.pop(key, None)) as context:
            if context is not None:
                self._last[key] = context
            yield
