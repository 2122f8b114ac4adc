"""Tracing: what is followed of requests and of the work in the background, and where it goes.

What there is to follow is found at the seams that are there anyway: `rooms` and `background` stand
around what wiring hands on, `proxy.web.server.request_tracing` beside the access log. Only
`otel` knows OpenTelemetry, and it is imported only where traces are switched on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from structlog.contextvars import bound_contextvars

from proxy.domain.trace_context import Trace, within


@contextmanager
def followed(trace: Trace) -> Iterator[None]:
    """What happens in the block belongs to a trace, and what is logged names it."""
    with within(trace), bound_contextvars(trace_id=trace.id):
        yield


def error_name(error: BaseException) -> str:
    """What a span says of an error; its words may hold what strangers wrote."""
    return type(error).__name__
