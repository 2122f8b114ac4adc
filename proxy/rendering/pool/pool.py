"""The pool: as many worker processes as there are cores, replaced whenever one ends."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Any, Self, cast, overload

import structlog

from proxy.domain.errors import ConfigurationError, ShuttingDown
from proxy.domain.worker_protocol import (
    HOLDS,
    AnalyseJob,
    AnalysisResult,
    Job,
    JobFailure,
    Ping,
    ProbeJob,
    ProbeResult,
    RenderJob,
    RenderResult,
    RenderSetJob,
    RenderSetResult,
    WorkerInfo,
)
from proxy.rendering.pool.bounded_sink import BoundedSink
from proxy.rendering.pool.failure_errors import death_of_last, diverged, error_of, too_large
from proxy.rendering.pool.process import (
    PendingJob,
    Sink,
    WorkerDied,
    WorkerProcess,
    WorkerStartOptions,
    WorkerUnfit,
)
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import WorkerSettings

RESTART_REASONS = ("crash", "deadline", "protocol", "cancelled", "recycled", "start", "oversize")
"""Why a worker was replaced."""

_ATTEMPTS = 2
"""A job whose worker died is tried once more; what went out already does not go out again."""
_PING_S = 2.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0

log = structlog.get_logger(__name__)

Begun = Callable[[], None]


class WorkerPool:
    """Runs jobs in worker processes, one at a time in each.

    ``async with`` starts and ends the processes; it is entered once the first of them is ready.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        source_types: tuple[str, ...],
        max_output_bytes: int,
        max_cpu_s: float | None = None,
        idle: bool = False,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        """``source_types`` are what the workers' loaders may open.

        ``max_cpu_s`` of the processor is what the kernel grants one rendition, twice the deadline
        where none is given. Workers of an ``idle`` pool get only the time that nobody else wants.
        """
        self._settings = settings
        self._supervisor = supervisor
        self._orders = WorkerStartOptions(
            source_types=source_types,
            max_memory_bytes=settings.max_memory_bytes,
            max_cpu_s=max_cpu_s or 2 * settings.deadline_s,
            sandbox=settings.sandbox,
            uid=settings.uid,
            nice=settings.nice,
            idle=idle,
        )
        self._max_output_bytes = max_output_bytes
        self._idle: deque[WorkerProcess] = deque()
        self._waiting: deque[PendingJob] = deque()
        self._workers: set[WorkerProcess] = set()
        self._starting: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()
        self._restarts: Counter[str] = Counter()
        self._jobs = 0
        self._closed = False
        self._hello: WorkerInfo | None = None
        self._unfit = "no process came up; the log has what it printed"

    @property
    def hello(self) -> WorkerInfo:
        """What the workers can do; known once the pool is entered."""
        if self._hello is None:
            raise ShuttingDown("the workers are not up")
        return self._hello

    async def __aenter__(self) -> Self:
        """Start the processes; return when the first is ready.

        Raises:
            ConfigurationError: none came up.
        """
        self._closed = False
        starts = [asyncio.create_task(self._start()) for _ in range(self._settings.processes)]
        for start in starts:
            _own(start, self._starting)
        try:
            up = await _any(starts)
        except BaseException:
            await self.aclose()
            raise
        if not up:
            raise ConfigurationError([f"workers: {self._unfit}"])
        if gaps := self.gaps:
            log.warning("sandbox_incomplete", **gaps)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all processes."""
        await self.aclose()

    @overload
    async def run(
        self,
        job: ProbeJob,
        source: int,
        sink: Sink = ...,
        *,
        begun: Begun = ...,
        deadline_s: float | None = ...,
    ) -> ProbeResult: ...
    @overload
    async def run(
        self,
        job: AnalyseJob,
        source: int,
        sink: Sink = ...,
        *,
        begun: Begun = ...,
        deadline_s: float | None = ...,
    ) -> AnalysisResult: ...
    @overload
    async def run(
        self,
        job: RenderJob,
        source: int,
        sink: Sink,
        *,
        begun: Begun = ...,
        deadline_s: float | None = ...,
    ) -> RenderResult: ...
    @overload
    async def run(
        self,
        job: RenderSetJob,
        source: int,
        sink: Sink,
        *,
        begun: Begun = ...,
        deadline_s: float | None = ...,
    ) -> RenderSetResult: ...

    async def run(
        self,
        job: Job,
        source: int,
        sink: Sink = lambda _: None,
        *,
        begun: Begun = lambda: None,
        deadline_s: float | None = None,
    ) -> ProbeResult | RenderResult | RenderSetResult | AnalysisResult:
        """Do a job in a worker; its encoded bytes go to ``sink`` as they come.

        The descriptor stays the caller's. ``begun`` is called when a worker has taken the job. A
        job whose worker dies is tried once more. ``deadline_s`` is the settings' where none is
        given; of a set each rendition has as much.

        Raises:
            RenderError: the picture cannot be rendered; the kind says why.
            SourceUnavailable: reading the source failed.
            ShuttingDown: the pool is closed.
        """
        self._jobs += 1
        outputs = len(job.outputs) if isinstance(job, RenderSetJob) else 1
        counted = BoundedSink(sink, self._max_output_bytes * max(1, outputs))
        deaths = 0
        while True:
            try:
                with PendingJob(job, source, counted) as order:
                    counted.listen()
                    worker = await self._place(order)
                    begun()
                    limit_s = deadline_s or self._settings.deadline_s
                    answer = await self._answered(order, worker, counted, deadline_s=limit_s)
            except WorkerDied as death:
                deaths += death.begun
                log.warning("worker_died", reason=death.reason, begun=death.begun)
                if counted.full:
                    raise too_large() from death
                if deaths == _ATTEMPTS:
                    raise death_of_last(death) from death
                counted.begin_again()
            else:
                if counted.full:
                    raise too_large()
                if isinstance(answer, JobFailure):
                    raise error_of(answer)
                if counted.diverged:
                    raise diverged()
                return cast(ProbeResult | RenderResult | RenderSetResult | AnalysisResult, answer)

    async def _answered(
        self, order: PendingJob, worker: WorkerProcess, sink: BoundedSink, *, deadline_s: float
    ) -> Any:
        """The answer to an order; a worker that gives none in time is killed.

        So is one whose order is cancelled: by then it may have gone on to the next. Of a set the
        time begins anew with all that comes out.
        """
        overflow = partial(self._stop, worker, order)
        try:
            async with asyncio.timeout(deadline_s) as limit:
                sink.listen(overflow=overflow)
                if order.is_set:
                    sink.listen(overflow=overflow, moved=partial(_prolong, limit, deadline_s))
                return await order.answer
        except TimeoutError:
            if worker.works_on(order):
                self._end(worker, "deadline")
            raise WorkerDied("deadline") from None
        except asyncio.CancelledError:
            if worker.works_on(order):
                self._end(worker, "cancelled")
            raise

    async def _place(self, order: PendingJob) -> WorkerProcess:
        """Hand an order to an idle worker, or to the next that is free."""
        if self._closed:
            raise ShuttingDown("the server is stopping")
        while self._idle:
            # The last to become free has its memory and the processor's caches warm.
            worker = self._idle.pop()
            if worker.begin(order):
                return worker
            self._end(worker, "crash")
        self._waiting.append(order)
        try:
            return await order.begun
        except asyncio.CancelledError:
            self._withdraw(order)
            raise

    def _withdraw(self, order: PendingJob) -> None:
        """Take back an order that nobody waits for, from the queue or from its worker."""
        with suppress(ValueError):
            self._waiting.remove(order)
        for worker in tuple(self._workers):
            if worker.works_on(order):
                self._end(worker, "cancelled")

    def _stop(self, worker: WorkerProcess, order: PendingJob) -> None:
        """Kill the worker of an order that gives too much, unless it is at the next already."""
        if worker.works_on(order):
            self._end(worker, "oversize")

    def _free(self, worker: WorkerProcess) -> None:
        """Give a worker its next order, or put it among the idle."""
        if worker.jobs >= self._settings.max_jobs:
            self._replace(worker, "recycled")
            return
        while self._waiting and self._waiting[0].begun.done():
            self._waiting.popleft()  # cancelled, and not taken back yet
        if not self._waiting:
            self._idle.append(worker)
        elif worker.begin(self._waiting[0]):
            self._waiting.popleft().begun.set_result(worker)
        else:
            self._end(worker, "crash")

    def _end(self, worker: WorkerProcess, reason: str) -> None:
        """Kill a worker and start another."""
        worker.end(WorkerDied(reason))
        self._replace(worker, reason)

    def _replace(self, worker: WorkerProcess, reason: str) -> None:
        """Let go of a worker and start another; once for each worker."""
        if worker not in self._workers:
            return
        self._restarts[reason] += 1
        self._workers.discard(worker)
        with suppress(ValueError):
            self._idle.remove(worker)
        _own(asyncio.create_task(worker.aclose()), self._ending)
        if not self._closed:
            # Not in the context of the job at fault: what the worker prints later is not about it.
            started = Context().run(
                self._supervisor.start, BackgroundTask.WORKER_START, self._start_until_up
            )
            _own(started, self._starting)

    async def _start_until_up(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not self._closed and not await self._start():
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    async def _start(self) -> bool:
        """Start one process and put it among the idle; whether it came up."""
        try:
            worker = await self._started()
        except (WorkerDied, WorkerUnfit, OSError) as error:
            self._restarts["start"] += 1
            log.warning("worker_start_failed", error=str(error))
            if isinstance(error, WorkerUnfit):
                self._unfit = str(error)
            return False
        self._hello = worker.hello
        self._workers.add(worker)
        if self._closed:
            await worker.aclose()
            return False
        worker.attend(on_free=self._free, on_lost=self._replace)
        self._free(worker)
        return True

    async def _started(self) -> WorkerProcess:
        """A process that is up, and locked in where that is required.

        Raises:
            WorkerDied: it did not come up.
            WorkerUnfit: it is not fit to work, or not locked in.
        """
        worker = await WorkerProcess.start(
            self._orders,
            timeout_s=self._settings.start_timeout_s,
            supervisor=self._supervisor,
        )
        gaps = _gaps(worker.hello)
        if gaps and self._settings.require_sandbox:
            worker.kill()
            await worker.aclose()
            raise WorkerUnfit(f"require_sandbox is set, and not all of it holds: {_listed(gaps)}")
        return worker

    async def check(self) -> None:
        """Return when a worker has answered, or all that are up are at work.

        Raises:
            ShuttingDown: none is up, or the one asked gave no answer and was replaced.
        """
        if not any(worker.alive for worker in self._workers):
            raise ShuttingDown("no worker process is up")
        if not self._idle:
            return
        try:
            sink = BoundedSink(lambda _: None, 0)
            with PendingJob(Ping(), None, sink) as order:
                worker = await self._place(order)
                await self._answered(order, worker, sink, deadline_s=_PING_S)
        except WorkerDied as death:
            raise ShuttingDown("a worker process did not answer") from death

    async def aclose(self) -> None:
        """End all processes, those at work by killing them, and wait for their end."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for order in (one for one in self._waiting if not one.begun.done()):
            order.begun.set_exception(ShuttingDown("the server is stopping"))
        self._waiting.clear()
        for worker in self._workers:
            worker.end(WorkerDied("cancelled", begun=False))
            _own(asyncio.create_task(worker.aclose()), self._ending)
        self._workers.clear()
        await asyncio.gather(*self._ending)

    @property
    def gaps(self) -> Mapping[str, str]:
        """What of the sandbox does not hold, each with its reason."""
        return _gaps(self.hello)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are up."""
        return tuple(worker.pid for worker in self._workers if worker.alive)

    def statistics(self) -> Mapping[str, float]:
        """Processes up, idle and at work, orders waiting for one, jobs, restarts by reason."""
        restarts = {f"restarts_{reason}": self._restarts[reason] for reason in RESTART_REASONS}
        up = sum(worker.alive for worker in self._workers)
        idle = len(self._idle)
        counts = {"up": up, "idle": idle, "busy": len(self._workers) - idle}
        return {**counts, "waiting": len(self._waiting), "jobs": self._jobs, **restarts}


def _gaps(hello: WorkerInfo) -> dict[str, str]:
    return {feature: state for feature, state in hello.sandbox.items() if state != HOLDS}


def _listed(gaps: Mapping[str, str]) -> str:
    return "; ".join(f"{feature}: {reason}" for feature, reason in gaps.items())


def _prolong(limit: asyncio.Timeout, seconds: float) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time() + seconds)


def _own(task: asyncio.Task[Any], owned: set[asyncio.Task[Any]]) -> None:
    owned.add(task)
    task.add_done_callback(owned.discard)


async def _any(starts: list[asyncio.Task[bool]]) -> bool:
    """Whether one of them came up; returns as soon as the first has."""
    for start in asyncio.as_completed(starts):
        if await start:
            return True
    return False
