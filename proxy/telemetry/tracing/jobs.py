"""Spans of a job: its wait for a worker, the work, each output and its stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from proxy.domain.worker_protocol import (
    AnalyseJob,
    Job,
    JobFailure,
    ProbeJob,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.telemetry.tracing import current_context, ended_by, record

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Span

_NAMES: Mapping[type[Job[Any]], str] = {
    ProbeJob: "probe",
    AnalyseJob: "analyse",
    RenditionSet: "render",
}


class JobSpan:
    """Collects what the spans of a job need; outside a trace nothing is recorded."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._queued_at = time.perf_counter()
        self._started_at: float | None = None
        self.result: object = None

    def before(self, on_start: Callable[[float], None]) -> Callable[[float], None]:
        """Return a callback that records the start of the job, then calls ``on_start``."""

        def started(queue_s: float) -> None:
            self._started_at = time.perf_counter()
            record("queue", self._started_at - queue_s, self._started_at)
            on_start(queue_s)

        return started

    def record(self, error: str | None) -> None:
        """Record the end of the job. If no worker started it, only the wait is recorded."""
        if self._started_at is None:
            record("queue", self._queued_at, error=error)
            return
        results = self.result.results if isinstance(self.result, RenditionSetResult) else ()
        # A job that is not framed has one output: its stages are directly below the job.
        framed = isinstance(self._job, RenditionSet) and self._job.framed
        only = results[0] if results and not framed else None
        single = only if isinstance(only, RenderResult) else None
        attributes = {} if single is None else _attributes(single)
        began, ended = self._started_at, time.perf_counter()
        name = _NAMES[type(self._job)]
        work = record(name, began, ended, attributes=attributes, error=error)
        if work is None:
            return
        if single is None:
            _record_outputs(work, began, ended, results)
        else:
            _record_stages(work, began, ended, single)


@contextmanager
def job_span(job: Job[Any]) -> Iterator[JobSpan | None]:
    """Record the job that the block runs; yield None outside a sampled trace."""
    # Most requests are not sampled: then no timestamps are taken.
    if current_context() is None:
        yield None
        return
    span = JobSpan(job)
    with ended_by(span.record):
        yield span


def _record_outputs(
    work: Span, began: float, limit: float, results: tuple[RenderResult | JobFailure, ...]
) -> None:
    """Record the outputs in sequence, as the worker makes them.

    A failed output has no duration: the worker does not report it.
    """
    for result in results:
        if isinstance(result, JobFailure):
            record("output", began, began, parent=work, error=result.kind)
            continue
        ended = began + sum(result.stages.values())
        output = record("output", began, ended, parent=work, attributes=_attributes(result))
        if output is not None:
            _record_stages(output, began, limit, result)
        began = ended


def _record_stages(parent: Span, began: float, limit: float, result: RenderResult) -> None:
    """Record the stages of a render as successive spans.

    A worker reports how long each stage took, but not when it began. ``limit`` is the end of the
    job; no span ends later.
    """
    # A busy server notes the start of a job later than the worker, whose stages then seem to be
    # longer than the job.
    for stage, seconds in result.stages.items():
        ended = min(began + seconds, limit)
        record(stage, began, ended, parent=parent)
        began = ended


def _attributes(result: RenderResult) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {
        "smartserve.width": result.width,
        "smartserve.height": result.height,
        "smartserve.cpu_s": result.cpu_s,
    }
    if result.quality is not None and result.score is not None:
        attributes |= {"smartserve.quality": result.quality, "smartserve.score": result.score}
    return attributes
