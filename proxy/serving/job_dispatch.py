"""The workshop: takes a job on a medium's source through quarantine and queue to a worker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Self, TypeVar, overload

from proxy.domain.errors import SmartserveError, SourceChanged, SourceMissing
from proxy.domain.media import Media
from proxy.domain.worker_protocol import (
    AnalyseJob,
    AnalysisResult,
    Job,
    JobFailure,
    ProbeJob,
    ProbeResult,
    RenderJob,
    RenderResult,
    RenderSetJob,
    RenderSetResult,
)
from proxy.rendering.pool.admission import Admission
from proxy.rendering.pool.failure_cache import FailureCache
from proxy.rendering.pool.failure_errors import error_of
from proxy.rendering.pool.pool import WorkerPool
from proxy.rendering.pool.process import Sink
from proxy.rendering.pool.usage import WorkerUsage
from proxy.storage.originals import OpenSource, SourceStore

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class JobResult(Generic[R_co]):
    """A job's result, with the seconds it waited for a worker and the seconds it took there."""

    result: R_co
    queue_s: float
    work_s: float


def _raise_if_alone(results: tuple[RenderResult | JobFailure, ...]) -> None:
    if len(results) == 1 and isinstance(results[0], JobFailure):
        raise error_of(results[0])


def picture_key(media: Media) -> str:
    """What stands for the bytes of a medium as long as its row is the same."""
    return f"{media.id}/{media.source_path}/{media.updated_at.timestamp()}"


class JobDispatcher:
    """Does jobs on the sources of media."""

    def __init__(
        self,
        *,
        sources: SourceStore,
        pool: WorkerPool,
        admission: Admission,
        quarantine: FailureCache,
        occupancy: WorkerUsage | None = None,
    ) -> None:
        """The rooms it works with; it owns none of them. ``occupancy`` counts its jobs."""
        self._sources = sources
        self._pool = pool
        self._admission = admission
        self._quarantine = quarantine
        self._occupancy = occupancy or WorkerUsage()

    def counted_by(self, occupancy: WorkerUsage) -> Self:
        """The same for another kind of work, whose share of the workers is counted there."""
        return type(self)(
            sources=self._sources,
            pool=self._pool,
            admission=self._admission,
            quarantine=self._quarantine,
            occupancy=occupancy,
        )

    def check(self, media: Media) -> None:
        """Raise what `run` would raise at once: remembered of the picture, or as the queue is."""
        self._quarantine.check(picture_key(media))
        self._admission.check()

    @overload
    async def run(self, media: Media, job: ProbeJob) -> JobResult[ProbeResult]: ...
    @overload
    async def run(
        self, media: Media, job: AnalyseJob, *, deadline_s: float | None = ...
    ) -> JobResult[AnalysisResult]: ...
    @overload
    async def run(
        self,
        media: Media,
        job: RenderJob,
        sink: Sink,
        *,
        byte_size: int,
        admitted: Callable[[float], None],
    ) -> JobResult[RenderResult]: ...
    @overload
    async def run(
        self,
        media: Media,
        job: RenderSetJob,
        sink: Sink,
        *,
        byte_size: int,
        admitted: Callable[[float], None] = ...,
        deadline_s: float | None = ...,
    ) -> JobResult[RenderSetResult]: ...

    async def run(
        self,
        media: Media,
        job: Job,
        sink: Sink = lambda _: None,
        *,
        byte_size: int | None = None,
        admitted: Callable[[float], None] = lambda _: None,
        deadline_s: float | None = None,
    ) -> JobResult[Any]:
        """Do a job on the source of a medium; encoded bytes go to ``sink`` as they come.

        ``byte_size`` is what the source is expected to have; ``admitted`` is called with the
        seconds of waiting once a worker is free. A set of one that fails is an error as well.

        Raises:
            RenderError: the picture cannot be rendered, now or by what is remembered of it.
            SourceError: its file cannot be read; `SourceChanged` where it has another size.
            CapacityError: no worker is free in time.
        """
        key = picture_key(media)
        self._quarantine.check(key)
        try:
            work = partial(self._pool.run, job, deadline_s=deadline_s)
            return await self._work(media, work, sink, byte_size, admitted)
        except SmartserveError as error:
            self._quarantine.remember(key, error)
            raise

    async def encoded(self, media: Media, job: RenderJob, *, byte_size: int) -> bytes:
        """All of a rendition, for who needs it whole; raises as `run` does."""
        rendition = bytearray()
        await self.run(media, job, rendition.extend, byte_size=byte_size, admitted=lambda _: None)
        return bytes(rendition)

    async def _work(
        self,
        media: Media,
        work: Callable[..., Awaitable[Any]],
        sink: Sink,
        byte_size: int | None,
        admitted: Callable[[float], None],
    ) -> JobResult[Any]:
        """Open the source, then wait for a worker: so none of them waits for a file to be opened.

        The queue bounds how many are open; where it is full, none is opened to be refused.
        """
        self._admission.check()
        async with self._opened(media) as source:
            arrived = time.perf_counter()
            begun_at = arrived

            def begun() -> None:
                nonlocal begun_at
                begun_at = time.perf_counter()
                taken()
                admitted(begun_at - arrived)

            async with self._admission.enter():
                if byte_size not in (None, source.byte_size):
                    raise SourceChanged("the picture has changed, ask again", retry_after_s=1)
                with self._occupancy.job() as taken:
                    result = await work(source.descriptor, sink, begun=begun)
            if isinstance(result, RenderSetResult):
                _raise_if_alone(result.results)
            return JobResult(result, begun_at - arrived, time.perf_counter() - begun_at)

    @asynccontextmanager
    async def _opened(self, media: Media) -> AsyncIterator[OpenSource]:
        """The original, or the processed file where the storage has no original."""
        async with AsyncExitStack() as stack:
            missing = SourceMissing("the medium has no file")
            for path in media.source_paths:
                try:
                    source = await stack.enter_async_context(self._sources.open(path))
                except SourceMissing as error:
                    missing = error
                else:
                    yield source
                    return
            raise missing
