"""Traces: what is followed of a request, or of work in the background, as plain values.

A trace is begun with ids of its own, or within that of whoever asked (W3C Trace Context). What
happens in it becomes a span when it has ended, and goes to a sink at once, so nothing is held back
for what ends later than the answer.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
_LOW = (1 << 64) - 1

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class SpanContext:
    """What names a span, here and elsewhere."""

    trace_id: int
    span_id: int
    sampled: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """Something that has ended; moments are nanoseconds since 1970."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    began_ns: int
    ended_ns: int
    attributes: Attributes = field(default_factory=dict)
    links: Sequence[SpanContext] = ()
    serves: bool = False
    """Whether it is the answer to a request, and not a part of something."""
    error: str | None = None
    """What went wrong, in words; None where all went well."""


Sink = Callable[[Span], None]
"""Takes a span; at once, on the event loop."""


def read_traceparent(header: str) -> SpanContext | None:
    """The span that a ``traceparent`` names (W3C Trace Context, 3.2); None where it is malformed.

    A later version than ours may have more behind it, which is passed over.
    """
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    context = SpanContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
    return context if context.trace_id and context.span_id else None


class Trace:
    """A request, or a piece of work, that is followed; it is the span above all of its parts.

    Moments are those of ``time.perf_counter``: a clock that is set does not bend a trace.
    """

    __slots__ = ("_began", "_began_ns", "_links", "_parent", "_sink", "context", "id")

    def __init__(
        self,
        sink: Sink,
        trace_id: int,
        *,
        parent: SpanContext | None = None,
        links: Sequence[SpanContext] = (),
        began: float | None = None,
    ) -> None:
        """It begins now, or has at ``began``."""
        now = time.perf_counter()
        self._sink = sink
        self._began = now if began is None else began
        self._began_ns = time.time_ns() - int((now - self._began) * 1e9)
        self._parent = parent
        self._links = links
        self.context = SpanContext(trace_id, _new_id(64))
        self.id = f"{trace_id:032x}"
        """As logs and exemplars have it."""

    def part(
        self,
        name: str,
        began: float,
        ended: float | None = None,
        *,
        of: SpanContext | None = None,
        attributes: Attributes | None = None,
        links: Sequence[SpanContext] = (),
        error: str | None = None,
    ) -> SpanContext:
        """A part has ended, now where it is not said when; ``of`` is another part of it."""
        context = SpanContext(self.context.trace_id, _new_id(64))
        until = time.perf_counter() if ended is None else ended
        self._sink(
            Span(
                name,
                context,
                of or self.context,
                self._ns(began),
                self._ns(until),
                attributes or {},
                links=links,
                error=error,
            )
        )
        return context

    def end(
        self,
        name: str,
        attributes: Attributes,
        *,
        serves: bool = False,
        error: str | None = None,
    ) -> None:
        """All of it has ended, but for what nobody has waited for."""
        self._sink(
            Span(
                name,
                self.context,
                self._parent,
                self._began_ns,
                self._ns(time.perf_counter()),
                attributes,
                links=self._links,
                serves=serves,
                error=error,
            )
        )

    def _ns(self, moment: float) -> int:
        return self._began_ns + int((moment - self._began) * 1e9)


class Tracer:
    """Begins traces, of the part that is sampled."""

    def __init__(self, sink: Sink, *, ratio: float, honour_parent: bool = True) -> None:
        """``ratio``, 0 to 1, is what is sampled of what nobody before us has decided about."""
        self._sink = sink
        self._below = round(ratio * (_LOW + 1))
        self.honour_parent = honour_parent

    def begin(
        self,
        *,
        parent: SpanContext | None = None,
        links: Sequence[SpanContext] = (),
        began: float | None = None,
    ) -> Trace | None:
        """A trace, or None where it is not sampled.

        Who asked within a trace has decided for us. What is linked to a trace is followed, too: a
        link leads somewhere then. For all else the id decides, as it does in OpenTelemetry, so
        that nodes of one ratio decide alike.
        """
        trace_id = _new_id(128) if parent is None else parent.trace_id
        sampled = parent.sampled if parent is not None else bool(links) or self.samples(trace_id)
        if not sampled:
            return None
        return Trace(self._sink, trace_id, parent=parent, links=links, began=began)

    def samples(self, trace_id: int) -> bool:
        """Whether a trace is of the part that is followed; decided by the lower half of its id."""
        return trace_id & _LOW < self._below


def _new_id(bits: int) -> int:
    """Never 0, which stands for none."""
    return random.getrandbits(bits) or 1


current: ContextVar[Trace | None] = ContextVar("current", default=None)
"""The trace that the work at hand belongs to; tasks inherit it from whoever starts them."""


@contextmanager
def within(trace: Trace) -> Iterator[None]:
    """What happens in the block belongs to a trace."""
    token = current.set(trace)
    try:
        yield
    finally:
        current.reset(token)
