"""Traces as values: who is followed, by the same rules as OpenTelemetry's own code."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace as api
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy.domain.trace_context import (
    Span,
    SpanContext,
    Trace,
    Tracer,
    current,
    read_traceparent,
    within,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

hexadecimal = st.text("0123456789abcdefAG", min_size=1, max_size=34)
headers = st.one_of(
    st.text(max_size=80),
    st.tuples(
        st.sampled_from(["00", "01", "cc", "ff", "0"]),
        st.one_of(
            hexadecimal, st.just("0" * 32), st.text("0123456789abcdef", min_size=32, max_size=32)
        ),
        st.one_of(st.just("0" * 16), st.text("0123456789abcdef", min_size=16, max_size=16)),
        st.sampled_from(["00", "01", "02", "03", "ff", "1"]),
        st.sampled_from(["", "-", "-more"]),
    ).map(lambda parts: "-".join(parts[:4]) + parts[4]),
)


@given(headers)
@example(TRACEPARENT)
@example(TRACEPARENT + "\n")
@example(TRACEPARENT.upper())
def test_a_traceparent_is_read_as_opentelemetry_reads_it(header: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": header})
    theirs = api.get_current_span(context).get_span_context()
    ours = read_traceparent(header.strip())
    if not theirs.is_valid:
        assert ours is None
    else:
        assert ours == SpanContext(theirs.trace_id, theirs.span_id, theirs.trace_flags.sampled)


@given(st.integers(1, (1 << 128) - 1), st.floats(0, 1))
def test_what_nobody_decided_about_is_sampled_as_opentelemetry_samples_it(
    trace_id: int, ratio: float
) -> None:
    theirs = TraceIdRatioBased(ratio).should_sample(None, trace_id, "x").decision
    tracer = Tracer(lambda _: None, ratio=ratio)
    assert tracer.samples(trace_id) == (theirs is Decision.RECORD_AND_SAMPLE)


@pytest.mark.parametrize("ratio", [0, 1])
def test_the_parent_decides_where_there_is_one(ratio: int) -> None:
    tracer = Tracer(lambda _: None, ratio=ratio)
    followed = tracer.begin(parent=SpanContext(5, 6, sampled=True))
    assert followed is not None
    assert (followed.context.trace_id, followed.id) == (5, f"{5:032x}")
    assert tracer.begin(parent=SpanContext(5, 6, sampled=False)) is None


def test_what_a_followed_one_has_caused_is_followed() -> None:
    tracer = Tracer(lambda _: None, ratio=0)
    assert tracer.begin() is None
    assert tracer.begin(links=[SpanContext(5, 6)]) is not None


def test_parts_lie_where_they_were_in_the_trace() -> None:
    spans: list[Span] = []
    now, now_ns = time.perf_counter(), time.time_ns()
    trace = Trace(spans.append, 7, began=now - 2)
    work = trace.part("work", now - 1.5, now - 0.5)
    trace.part("stage", now - 1.5, now - 1, of=work)
    trace.end("all", {"a": 1}, error="Broken")
    part, stage, whole = spans
    assert (part.parent, stage.parent, whole.parent) == (trace.context, work, None)
    assert whole.context == trace.context
    assert whole.began_ns == pytest.approx(now_ns - 2e9, abs=5e7)
    assert part.began_ns - whole.began_ns == pytest.approx(0.5e9, abs=10)
    assert part.ended_ns - part.began_ns == pytest.approx(1e9, abs=10)
    assert whole.ended_ns - whole.began_ns == pytest.approx(2e9, abs=5e7)
    assert (whole.error, part.error) == ("Broken", None)


def test_the_trace_at_hand_is_that_of_the_innermost_block() -> None:
    outer, inner = (Trace(lambda _: None, number) for number in (1, 2))
    with within(outer):
        with within(inner):
            assert current.get() is inner
        assert current.get() is outer
    assert current.get() is None
