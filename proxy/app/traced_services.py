"""Rooms: the seams that the work for a request goes through, followed where that is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from proxy.domain.formats import Format
from proxy.domain.media import Media, MediaFacts
from proxy.domain.trace_context import SpanContext, Trace, current
from proxy.domain.variant import Shapes, Variant
from proxy.domain.worker_protocol import (
    AnalyseJob,
    Job,
    JobFailure,
    ProbeJob,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.pool.pending_job import Sink
from proxy.serving.job_dispatch import JobDispatcher, JobResult
from proxy.storage.database import MediaRepository
from proxy.storage.renditions import Rendition, RenditionStore, RenditionWriter
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import error_name

Told = dict[str, str | int | float | bool]
"""What is told of a part, filled while it lasts."""


@contextmanager
def part(name: str, **told: str | float) -> Iterator[Told]:
    """The block is a part of the trace at hand, if any; its error is that of the part."""
    trace = current.get()
    attributes: Told = {f"smartserve.{key}": value for key, value in told.items()}
    if trace is None:
        yield attributes
        return
    began, error = time.perf_counter(), None
    try:
        yield attributes
    except Exception as raised:
        error = error_name(raised)
        raise
    finally:
        trace.part(name, began, attributes=attributes, error=error)


class TracedDatabase:
    """A `MediaRepository` whose look-ups are followed, those that the row cache answers too."""

    def __init__(self, database: MediaRepository) -> None:
        self._database = database

    async def find(self, media_id: int) -> Media | None:
        """The row with its facts, or None."""
        with part("database") as told:
            found = await self._database.find(media_id)
            told["smartserve.found"] = found is not None
            return found

    async def save_facts(self, media_id: int, facts: MediaFacts) -> None:
        """Keep what was learned about a source, in place of what was known before."""
        await self._database.save_facts(media_id, facts)

    async def delete_facts(self, media_id: int) -> None:
        """Drop what was learned about a source, so that it is learned again."""
        await self._database.delete_facts(media_id)

    async def ping(self) -> None:
        """Return when the database answers a query."""
        await self._database.ping()


class TracedStore:
    """A `RenditionStore` of which reading and writing are followed."""

    def __init__(self, store: RenditionStore) -> None:
        self._store = store

    async def get(self, variant: Variant) -> Rendition | None:
        """The whole, checked rendition, or None. The caller closes it."""
        with part("store read") as told:
            found = await self._store.get(variant)
            told["smartserve.tier"] = "none" if found is None else found.tier
            return found

    @asynccontextmanager
    async def writer(self, variant: Variant) -> AsyncIterator[RenditionWriter]:
        """Take in a rendition as it is made; it is kept only if the block ends without error.

        What is followed begins with its first bytes: it is waited for until then.
        """
        trace = current.get()
        async with self._store.writer(variant) as writer:
            counted = _CountedWriter(writer)
            yield writer if trace is None else counted
        if trace is not None and counted.began is not None:
            trace.part("store write", counted.began, attributes={"smartserve.bytes": counted.taken})

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Digests of the variants of a medium that `get` would probably have; no use of them."""
        return await self._store.digests(media_id)

    async def delete(self, variant: Variant) -> None:
        """Let go of one rendition, which another has replaced."""
        await self._store.delete(variant)

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Drop renditions of a medium, of these shapes or all; gives how many were dropped."""
        return await self._store.purge(media_id, shapes)

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """For each tier: bytes, items, hits, misses, evictions, failures and the like."""
        return self._store.statistics()


class _CountedWriter:
    """Notes when the first bytes came, and how many there were."""

    def __init__(self, writer: RenditionWriter) -> None:
        self._writer = writer
        self.began: float | None = None
        self.taken = 0

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        if self.began is None:
            self.began = time.perf_counter()
        self.taken += len(chunk)
        await self._writer.write(chunk)


_NAMES: Mapping[type[Job[Any]], str] = {
    ProbeJob: "probe",
    AnalyseJob: "analyse",
    RenditionSet: "render",
}


class TracedJobDispatcher(JobDispatcher):
    """A workshop whose jobs are followed: the wait for a worker, and the work with its stages."""

    async def run(
        self,
        media: Media,
        job: Any,
        sink: Sink = lambda _: None,
        *,
        admitted: Callable[[float], None] = lambda _: None,
        **options: Any,
    ) -> JobResult[Any]:
        """As the workshop's own, which says what goes with which job."""
        trace = current.get()
        if trace is None:
            untold: JobResult[Any] = await super().run(
                media, job, sink, admitted=admitted, **options
            )
            return untold
        work = _Work(trace, job)

        def begun(queue_s: float) -> None:
            work.begin(queue_s)
            admitted(queue_s)

        try:
            done: JobResult[Any] = await super().run(media, job, sink, admitted=begun, **options)
        except BaseException as error:
            work.end(error=error_name(error))
            raise
        work.end(done.result)
        return done


class _Work:
    """A job on its way: it waits, then a worker has it."""

    def __init__(self, trace: Trace, job: Job[Any]) -> None:
        self._trace = trace
        self._name = _NAMES[type(job)]
        self._framed = isinstance(job, RenditionSet) and job.framed
        self._asked = time.perf_counter()
        self._began: float | None = None

    def begin(self, queue_s: float) -> None:
        """A worker has it, after so many seconds in the queue."""
        self._began = time.perf_counter()
        self._trace.part("queue", self._began - queue_s, self._began)

    def end(self, result: object = None, *, error: str | None = None) -> None:
        """It is done, or has failed: where no worker had it, before it was one's turn."""
        if self._began is None:
            self._trace.part("queue", self._asked, error=error)
            return
        outputs = result.results if isinstance(result, RenditionSetResult) else ()
        only = outputs[0] if outputs and not self._framed else None
        told = _told(only) if isinstance(only, RenderResult) else {}
        work = self._trace.part(self._name, self._began, attributes=told, error=error)
        if isinstance(only, RenderResult):
            self._stages(work, self._began, only)
        else:
            self._outputs(work, self._began, outputs)

    def _outputs(
        self, work: SpanContext, began: float, outputs: tuple[RenderResult | JobFailure, ...]
    ) -> None:
        """One after the other, as the worker makes them; how long a failed one took it keeps."""
        for one in outputs:
            if isinstance(one, JobFailure):
                self._trace.part("output", began, began, of=work, error=one.kind)
                continue
            ended = began + sum(one.stages.values())
            output = self._trace.part("output", began, ended, of=work, attributes=_told(one))
            self._stages(output, began, one)
            began = ended

    def _stages(self, of: SpanContext, began: float, result: RenderResult) -> None:
        """Laid end to end: a worker tells how long each took, and not when it began."""
        for stage, seconds in result.stages.items():
            self._trace.part(stage, began, began + seconds, of=of)
            began += seconds


def _told(result: RenderResult) -> Told:
    told: Told = {
        "smartserve.width": result.width,
        "smartserve.height": result.height,
        "smartserve.cpu_s": result.cpu_s,
    }
    if result.quality is not None and result.score is not None:
        told |= {"smartserve.quality": result.quality, "smartserve.score": result.score}
    return told


class TracedTelemetry:
    """Metrics of a request and its render, whose examples are the traces at hand."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def stage(self, stage: str, seconds: float) -> None:
        """One stage of a request or a render: queue, decode, transform, encode, store."""
        self._metrics.stage(stage, seconds, _trace_id())

    def rendered(self, label: str, fmt: Format, seconds: float) -> None:
        """A whole render, from the worker's start to its answer."""
        self._metrics.rendered(label, fmt, seconds, _trace_id())

    def missed_target(self) -> None:
        """A final did not reach its target of perceived quality within its bounds."""
        self._metrics.missed_target()


def _trace_id() -> str:
    trace = current.get()
    return "" if trace is None else trace.id


def joined(began: float, leader: Trace | None) -> None:
    """A request has waited, since ``began``, for the render that another one leads."""
    trace = current.get()
    if trace is not None:
        trace.part("coalesced", began, links=[] if leader is None else [leader.context])
