"""The spans of a job: queue, work, outputs and stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proxy.domain.errors import QueueFull
from proxy.domain.worker_protocol import (
    JobFailure,
    ProbeJob,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.settings import LimitSettings
from proxy.telemetry import tracing
from proxy.telemetry.tracing.jobs import job_span

PROBE = ProbeJob(LimitSettings().to_limits())
RESULT = RenderResult(300, 200, 10, stages={"decode": 0.25, "encode": 0.5}, cpu_s=0.6)


@dataclass
class Recorded:
    """The spans that have ended."""

    exporter: InMemorySpanExporter

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return found

    def names(self) -> list[str]:
        return sorted(span.name for span in self.exporter.get_finished_spans())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing.STATE, "tracer", provider.get_tracer("test"))
    yield Recorded(exporter)
    provider.shutdown()


def render_job(*, framed: bool = False) -> RenditionSet:
    return RenditionSet(LimitSettings().to_limits(), (), framed=framed)


def test_outside_a_trace_nothing_is_recorded(recorded: Recorded) -> None:
    with job_span(PROBE) as span:
        assert span is None
    assert recorded.names() == []


def test_a_job_is_its_wait_and_its_work(recorded: Recorded) -> None:
    with tracing.background_span("root", {}), job_span(PROBE) as span:
        assert span is not None
        span.before(lambda _: None)(0.5)
    assert recorded.names() == ["probe", "queue", "root"]
    queue = recorded.named("queue")
    assert queue.start_time is not None
    assert queue.end_time is not None
    assert 0.49e9 < queue.end_time - queue.start_time < 0.51e9


def test_a_job_that_no_worker_started_is_a_failed_wait(recorded: Recorded) -> None:
    with (
        pytest.raises(QueueFull),
        tracing.background_span("root", {}),
        job_span(PROBE),
    ):
        raise QueueFull("full")
    assert recorded.names() == ["queue", "root"]
    assert recorded.named("queue").status.description == "QueueFull"


def test_a_single_rendition_has_its_stages_below_the_render(recorded: Recorded) -> None:
    with tracing.background_span("root", {}), job_span(render_job()) as span:
        assert span is not None
        span.before(lambda _: None)(0.0)
        span.result = RenditionSetResult((RESULT,))
    assert recorded.names() == ["decode", "encode", "queue", "render", "root"]
    render, decode, encode = (recorded.named(name) for name in ("render", "decode", "encode"))
    assert decode.parent == encode.parent == render.context
    assert decode.end_time == encode.start_time
    assert dict(render.attributes or {}) == {
        "smartserve.width": 300,
        "smartserve.height": 200,
        "smartserve.cpu_s": 0.6,
    }


def test_each_output_of_a_set_has_a_span_even_if_it_failed(recorded: Recorded) -> None:
    failure = JobFailure("undecodable", "cut off")
    with tracing.background_span("root", {}), job_span(render_job(framed=True)) as span:
        assert span is not None
        span.before(lambda _: None)(0.0)
        span.result = RenditionSetResult((RESULT, failure))
    outputs = [one for one in recorded.exporter.get_finished_spans() if one.name == "output"]
    assert [one.status.description for one in outputs] == [None, "undecodable"]
    assert outputs[0].end_time == outputs[1].start_time
