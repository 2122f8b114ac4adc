"""Runs jobs on the source files of media: failure cache, admission, then a worker."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Self, TypeVar

from cachetools import LRUCache
from structlog.contextvars import bound_contextvars

from proxy.domain.errors import SmartserveError, SourceChanged, SourceMissing
from proxy.domain.media import Media, ProbeResult
from proxy.domain.variant import Variant, stage_text
from proxy.domain.worker_protocol import Job, RenderOutput, RenditionSet
from proxy.rendering.pool.admission import Admission, FailureCache
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.pool.process import Sink
from proxy.storage.originals import OriginalReader
from proxy.storage.originals.local_store import OpenSource
from proxy.telemetry.tracing import STATE
from proxy.telemetry.tracing.jobs import job_span

Result = TypeVar("Result")
Found = TypeVar("Found")


MAX_VERSIONS = 100_000


class SourceVersion(NamedTuple):
    """A content hash, and the version that the storage reported for that content."""

    content: str
    version: str


@dataclass(frozen=True, slots=True)
class JobResult(Generic[Result]):
    """The result of a job with its times."""

    result: Result
    queue_s: float
    """Seconds from admission to the start of the job in a worker."""
    work_s: float
    """Seconds from the start to the reply."""


def source_key(media: Media) -> str:
    """Return a key that changes whenever the source of a medium may have changed."""
    return f"{media.id}/{media.source_path}/{media.updated_at.timestamp()}"


def output_of(variant: Variant) -> RenderOutput:
    """Return the output of a `RenditionSet` that renders a variant."""
    return RenderOutput(
        geometry=variant.geometry,
        profile=variant.profile,
        remove_background=variant.background_removed,
        animated=variant.animated,
        search=variant.search,
        alternative=variant.alternative,
        base=variant.base,
    )


def service_kind(job: Job[Any]) -> str:
    """Return a name for the jobs that take about as long: same encodings, same octave of pixels."""
    if not isinstance(job, RenditionSet):
        return type(job).__name__
    outputs = job.outputs
    stages = {stage_text(one.profile, one.search) for one in outputs}
    pixels = sum(one.geometry.width * one.geometry.height for one in outputs)
    return f"{'+'.join(sorted(stages))} {pixels.bit_length()}"


class JobDispatcher:
    """Runs jobs on media. A failure cache rejects media that could not be rendered."""

    def __init__(
        self,
        *,
        sources: OriginalReader,
        pool: WorkerPool,
        admission: Admission,
        failures: FailureCache,
        versions: MutableMapping[int, SourceVersion] | None = None,
    ) -> None:
        """``versions`` are what all dispatchers remember of sources that have a version."""
        self._sources = sources
        self._pool = pool
        self._admission = admission
        self._failures = failures
        self._versions = LRUCache(MAX_VERSIONS) if versions is None else versions
        self._busy = 0

    def counted_apart(self) -> Self:
        """Return a dispatcher for another kind of work, which shares everything but the counts."""
        return type(self)(
            sources=self._sources,
            pool=self._pool,
            admission=self._admission,
            failures=self._failures,
            versions=self._versions,
        )

    def check(self, media: Media) -> None:
        """Raise at once what `run` would raise without starting any work."""
        self._failures.check(source_key(media))
        self._admission.check()

    async def available(self, media: Media, *, byte_size: int) -> bool:
        """Return whether a job would be accepted now and find a source of this size."""
        try:
            self._failures.check(source_key(media))
            if self._admission.free_places <= 0:
                return False
            found = await self._first(media, self._sources.byte_size)
        except SmartserveError:
            return False
        return found == byte_size

    async def run(
        self,
        media: Media,
        job: Job[Result],
        sink: Sink = lambda _: None,
        *,
        facts: ProbeResult | None = None,
        on_start: Callable[[float], None] = lambda _: None,
        deadline_s: float | None = None,
    ) -> JobResult[Result]:
        """Run a job on the source of a medium and pass the encoded bytes to ``sink``.

        ``facts`` are those of the expected source, if the job depends on them. ``on_start`` is
        called with the seconds in the queue when a worker starts the job, again if the job is
        repeated.

        Raises:
            RenderError: the image cannot be rendered, now or according to the failure cache.
            SourceError: the source cannot be read, or is another one (`SourceChanged`).
            CapacityError: no worker became free in time.
        """
        # A full queue must reject the request before a file is opened for it.
        self.check(media)
        return await self.run_checked(
            media, job, sink, facts=facts, on_start=on_start, deadline_s=deadline_s
        )

    async def run_checked(
        self,
        media: Media,
        job: Job[Result],
        sink: Sink,
        *,
        facts: ProbeResult | None,
        on_start: Callable[[float], None] = lambda _: None,
        deadline_s: float | None = None,
    ) -> JobResult[Result]:
        """As `run`, for a caller that has just called `check`."""
        with nullcontext() if STATE.tracer is None else job_span(job) as span:
            try:
                done = await self._run(
                    media,
                    job,
                    sink,
                    facts=facts,
                    on_start=on_start if span is None else span.before(on_start),
                    deadline_s=deadline_s,
                )
            except SmartserveError as error:
                # Stores only failures that the image itself caused, not overload or a missing file.
                self._failures.remember(source_key(media), error)
                raise
            if span is not None:
                span.result = done.result
            return done

    async def run_on(
        self, descriptor: int, job: Job[Result], sink: Sink = lambda _: None
    ) -> JobResult[Result]:
        """Run a job on an open file, which remains the caller's, without the failure cache."""
        return await self._run(descriptor, job, sink)

    async def _run(
        self,
        target: Media | int,
        job: Job[Result],
        sink: Sink,
        *,
        facts: ProbeResult | None = None,
        on_start: Callable[[float], None] = lambda _: None,
        deadline_s: float | None = None,
    ) -> JobResult[Result]:
        """Run a job on the source of a medium, or on an open file of the caller."""
        kind = service_kind(job)
        queued_at = time.perf_counter()
        started_at: float | None = None

        def started() -> None:
            nonlocal started_at
            # A repeated job still occupies one worker.
            self._busy += started_at is None
            started_at = time.perf_counter()
            on_start(started_at - queued_at)

        fetch_s = 0.0
        try:
            async with self._admission.enter(kind):
                work = partial(self._pool.run, job, on_start=started, deadline_s=deadline_s)
                if isinstance(target, int):
                    result = await work(target, sink)
                else:
                    result, fetch_s = await self._on_source(target, work, sink, facts)
        finally:
            self._busy -= started_at is not None
        ended_at = time.perf_counter()
        if started_at is None:
            started_at = ended_at
        work_s = ended_at - started_at
        # Two jobs per worker are admitted, so a fetch from another server delays the queue only if
        # it takes longer than the work. A job that failed is not counted: it may have ended at
        # once, or at its deadline.
        self._admission.learn(kind, max(work_s, (fetch_s + work_s) / 2))
        return JobResult(result, started_at - queued_at, work_s)

    async def _on_source(
        self,
        media: Media,
        work: Callable[[int, Sink], Awaitable[Result]],
        sink: Sink,
        facts: ProbeResult | None,
    ) -> tuple[Result, float]:
        """Open the source of a medium for some work; return its result, and seconds of a fetch.

        Call it in the queue's turn: a source may be a copy in memory, and the queue is long. One
        job more than can run is admitted per worker, so no worker waits for the source.
        """
        opened_at = time.perf_counter()
        source = await self._first(media, self._sources.open)
        fetch_s = time.perf_counter() - opened_at if source.release is not None else 0.0
        try:
            # The variant was resolved from the facts of another file: its key must not get the
            # bytes of this one.
            if facts is not None and self._is_other(media, source, facts):
                raise SourceChanged("the image has changed, try again", retry_after_s=1)
            # The log has to name the image that kills a worker or raises in it.
            with bound_contextvars(media_id=media.id):
                result = await work(source.descriptor, sink)
            if source.version and isinstance(result, ProbeResult):
                self._versions[media.id] = SourceVersion(result.content_hash, source.version)
        finally:
            # Not `close`: a call into another module for each render.
            os.close(source.descriptor)
            if source.release is not None:
                source.release()
        return result, fetch_s

    def _is_other(self, media: Media, source: OpenSource, facts: ProbeResult) -> bool:
        """Return whether an open source is not the file that these facts were read from."""
        if source.byte_size != facts.byte_size:
            return True
        if source.content_hash:
            return source.content_hash != facts.content_hash
        return bool(source.version) and self._replaced(media, source.version)

    async def run_file(
        self, key: str, descriptor: int, job: Job[Result], sink: Sink = lambda _: None
    ) -> Result:
        """As `run_on`, with the failure cache: ``key`` names the content of the open file."""
        self._failures.check(key)
        self._admission.check()
        try:
            return (await self.run_on(descriptor, job, sink)).result
        except SmartserveError as error:
            self._failures.remember(key, error)
            raise

    async def encoded(self, media: Media, job: RenditionSet, *, facts: ProbeResult) -> bytes:
        """Return the whole rendition of a set of one output; raises as `run` does."""
        rendition = bytearray()
        await self.run(media, job, rendition.extend, facts=facts)
        return bytes(rendition)

    async def _first(self, media: Media, find: Callable[[str], Awaitable[Found]]) -> Found:
        """Find the original, or the processed file if the storage has no original."""
        missing: SourceMissing | None = None
        for path in media.source_paths:
            try:
                return await find(path)
            except SourceMissing as error:
                missing = error
        raise missing or SourceMissing("the medium has no file")

    def _replaced(self, media: Media, version: str) -> bool:
        """Return whether a version of the source is not the one that its facts were read from."""
        facts, known = media.known_facts, self._versions.get(media.id)
        if facts is None:
            return known is not None and known.version != version
        content = facts.content_hash
        # One changed without the other. If both did, another server has read the facts again.
        if known is not None and (known.content == content) != (known.version == version):
            return True
        self._versions[media.id] = SourceVersion(content, version)
        return False

    def statistics(self) -> Mapping[str, float]:
        """Return the number of workers that the jobs of this dispatcher occupy."""
        return {"busy": self._busy}
