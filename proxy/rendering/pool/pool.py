"""A pool of worker processes; a process that ends is replaced."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeVar, cast

import structlog

from proxy.domain.errors import (
    ConfigurationError,
    Overloaded,
    RenderFault,
    RenderTimeout,
    ShuttingDown,
    SmartserveError,
    SourceQuarantined,
    SourceTooLarge,
)
from proxy.domain.worker_protocol import (
    HOLDS,
    Job,
    JobFailure,
    Ping,
    RenditionSetResult,
    WorkerInfo,
)
from proxy.rendering.pool.process import PendingJob, PoolProcess, Sink, WorkerDied
from proxy.rendering.pool.worker_start import (
    RENDER_WORKER,
    WorkerStartOptions,
    WorkerUnfit,
    start_worker,
)
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import WorkerSettings

RESTART_REASONS = (
    "crash",
    "deadline",
    "protocol",
    "cancelled",
    "recycled",
    "start",
    "oversize",
    "starved",
)
"""Reasons for the replacement of a worker."""

_PING_S = 2.0
_START_DELAYS_S = (1.0, 5.0, 15.0, 30.0)
"""Delays before all processes are started again because none was ready in time."""
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 5.0

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


DECODERS: Mapping[str, str] = MappingProxyType({"decoders": "on"})
"""Options of workers that decode what libvips does not, as `rendering.worker.imaging.decoders`
lists it."""


class PoolOfDecoders(Protocol):
    """Workers that decode what the workers of a `WorkerPool` do not."""

    pool: WorkerPool

    def running(self) -> AbstractAsyncContextManager[WorkerPool]:
        """Context manager for a job: the workers run during the block."""

    async def aclose(self) -> None:
        """End the workers."""


class WorkerPool:
    """Runs jobs in worker processes, one at a time in each.

    Use it as an async context manager. Entering returns when the first process is ready.
    """

    def __init__(  # noqa: PLR0913 - each kind of worker needs some of them
        self,
        settings: WorkerSettings,
        *,
        source_types: tuple[str, ...],
        max_output_bytes: int,
        max_cpu_s: float | None = None,
        idle: bool = False,
        supervisor: TaskSupervisor = UNCOUNTED,
        start: Callable[[], Awaitable[PoolProcess]] | None = None,
        module: str = RENDER_WORKER,
        extra: Mapping[str, str] = MappingProxyType({}),
        max_attempts: int = 2,
    ) -> None:
        """Create a pool without processes.

        ``max_output_bytes`` and ``max_cpu_s`` limit one rendition; the kernel enforces the latter
        (default: twice the deadline). The workers of an ``idle`` pool run only while the processor
        is otherwise idle. ``module`` is the program of the workers, and ``extra`` are options that
        only it knows; ``start`` starts a process that is no worker. A job whose worker died is by
        default repeated once: the cause may be the worker, not the source.
        """
        self._settings = settings
        self._supervisor = supervisor
        self._start_options = WorkerStartOptions(
            source_types=source_types,
            max_memory_bytes=settings.max_memory_bytes,
            max_cpu_s=max_cpu_s or 2 * settings.deadline_s,
            sandbox=settings.sandbox,
            uid=settings.uid,
            nice=settings.nice,
            idle=idle,
            system_fonts=settings.system_fonts,
            module=module,
            extra=dict(extra),
        )
        self._decoders: PoolOfDecoders | None = None
        self._start_process = start or self._start_worker
        self._max_attempts = max_attempts
        self._max_output_bytes = max_output_bytes
        self._idle: deque[PoolProcess] = deque()
        self._waiting: deque[PendingJob] = deque()
        self._workers: set[PoolProcess] = set()
        self._starting: set[asyncio.Task[Any]] = set()
        self._begun: list[asyncio.Task[bool]] = []
        self._ending: set[asyncio.Task[Any]] = set()
        self._restarts: Counter[str] = Counter()
        self._jobs = 0
        self._exceptions = 0
        self._closed = False
        self._hello: WorkerInfo | None = None
        self._start_may_succeed = False
        self._start_error = "no worker process started; the log has its error output"

    def pass_on_to(self, decoders: PoolOfDecoders) -> None:
        """Pass jobs that need other decoders on to these workers, and close them with this pool."""
        self._decoders = decoders

    @property
    def hello(self) -> WorkerInfo:
        """Capabilities of the workers; available once the pool is entered."""
        if self._hello is None:
            raise ShuttingDown("the workers are not running")
        return self._hello

    def begin(self) -> None:
        """Start the first process and return at once; then enter the pool, or close it.

        Only one: with as many as processors, they would delay what is started beside them.
        """
        self._closed = False
        self._begun = self._start_tasks(1)

    async def __aenter__(self) -> Self:
        """Start the processes; return when the first is ready.

        Raises:
            ConfigurationError: no process started.
        """
        self._closed = False
        try:
            await self._start_all()
        except BaseException:
            await self.aclose()
            raise
        if gaps := self.gaps:
            log.warning("sandbox_incomplete", **gaps)
        return self

    async def _start_all(self) -> None:
        """Start all processes; return once the first is ready. Retry if none was in time."""
        for delay_s in (*_START_DELAYS_S, None):
            missing = self._settings.processes - len(self._begun)
            starts, self._begun = [*self._begun, *self._start_tasks(missing)], []
            if await _first_ready(starts):
                for start in starts:
                    start.add_done_callback(self._start_again)
                return
            # A fault of the installation fails each time; lack of CPU time or memory may pass.
            if not self._start_may_succeed or delay_s is None:
                break
            log.warning("worker_start_retried", reason=self._start_error, delay_s=delay_s)
            await asyncio.sleep(delay_s)
        raise ConfigurationError([f"workers: {self._start_error}"])

    def _start_tasks(self, count: int) -> list[asyncio.Task[bool]]:
        starts = [asyncio.create_task(self._start()) for _ in range(count)]
        for start in starts:
            _track(start, self._starting)
        return starts

    def _start_again(self, start: asyncio.Task[bool]) -> None:
        """Start another process for one that failed while others became ready."""
        if not (self._closed or start.cancelled() or start.exception() or start.result()):
            self._start_later()

    async def __aexit__(self, *_: object) -> None:
        """End all processes."""
        await self.aclose()

    async def run(
        self,
        job: Job[Result],
        source: int | None,
        sink: Sink = lambda _: None,
        *,
        on_start: Callable[[], None] = lambda: None,
        deadline_s: float | None = None,
        attachment: int | None = None,
    ) -> Result:
        """Run a job in a worker and pass the encoded bytes to ``sink``.

        A job that streams passes bytes on as they arrive, any other job when the worker is done.
        The descriptors remain the caller's. ``on_start`` is called when a worker starts the job,
        again if it is repeated. A framed set may take ``deadline_s`` for each rendition.

        A job whose worker died, hung or broke the protocol is repeated once, unless bytes have been
        passed on: a client may have them already, so the error has to abort its connection. A job
        that used up its CPU time is not repeated.

        Raises:
            RenderError: the image cannot be rendered.
            Overloaded: the worker got too little CPU time.
            SourceUnavailable: the source cannot be read.
            ShuttingDown: the pool is closed.
        """
        self._jobs += 1
        deaths = 0
        while True:
            pending = PendingJob(
                job, source, sink, max_bytes=self._max_output_bytes, attachment=attachment
            )
            try:
                with pending:
                    worker = await self._assign(pending)
                    on_start()
                    reply = await self._result(
                        pending, worker, deadline_s or self._settings.deadline_s
                    )
            except WorkerDied as death:
                # A worker that died before it read the job says nothing about the source.
                deaths += death.started
                log.warning("worker_died", reason=death.reason, begun=death.started)
                if death.reason == "starved":
                    # Neither the image nor the worker is to blame, and a repetition adds load.
                    raise Overloaded(
                        "the image got too little CPU time because the machine is overloaded",
                        retry_after_s=self._settings.retry_after_s,
                    ) from death
                # A drawing that takes for ever would occupy a second worker.
                if deaths == self._max_attempts or death.spent or not pending.repeatable(death):
                    repeated = deaths == self._max_attempts
                    raise _death_error(death, repeated=repeated) from death
            else:
                self._log_exceptions(reply)
                if not isinstance(reply, JobFailure):
                    return cast(Result, reply)
                if reply.kind != "other_decoder" or self._decoders is None:
                    raise reply.to_error()
                break
        # The worker has passed on no bytes: it has only read the header of the source.
        try:
            async with self._decoders.running() as pool:
                return await pool.run(job, source, sink, on_start=on_start, deadline_s=deadline_s)
        except ConfigurationError as error:
            raise RenderFault("; ".join(error.faults)) from error

    def _log_exceptions(self, reply: Any) -> None:
        """Log and count unexpected exceptions that a worker caught."""
        parts = reply.results if isinstance(reply, RenditionSetResult) else (reply,)
        for part in parts:
            if isinstance(part, JobFailure) and part.traceback:
                self._exceptions += 1
                log.error("worker_exception", reason=part.detail, traceback=part.traceback)

    async def _result(self, job: PendingJob, worker: PoolProcess, deadline_s: float) -> Any:
        """Wait for the reply; kill a worker that is late, writes too much or is not needed.

        By then the worker may have started its next job: that one must not be disturbed.
        """
        try:
            return await job.result(deadline_s, wall_factor=self._settings.wall_clock_factor)
        except WorkerDied as death:
            # It may still run: it is late, or broke the protocol in its output before its reply.
            self._end_at(job, worker, death.reason)
            raise
        except SourceTooLarge:
            self._end_at(job, worker, "oversize")
            raise
        except asyncio.CancelledError:
            self._end_at(job, worker, "cancelled")
            raise

    async def _assign(self, job: PendingJob) -> PoolProcess:
        """Give a job to an idle worker, or to the next one that becomes free."""
        if self._closed:
            raise ShuttingDown("the server is stopping")
        while self._idle:
            # Last in, first out: the memory and processor caches of this worker are still warm.
            worker = self._idle.pop()
            if worker.begin(job):
                return worker
            self._end(worker, "crash")
        self._waiting.append(job)
        try:
            assigned: PoolProcess = await job.worker
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting.remove(job)
            # A worker may have started it in the same turn of the event loop.
            for worker in tuple(self._workers):
                self._end_at(job, worker, "cancelled")
            raise
        return assigned

    def _on_free(self, worker: PoolProcess) -> None:
        """Give a worker its next job, or add it to the idle ones."""
        if worker.jobs >= self._settings.max_jobs or worker.outgrown:
            self._replace(worker, "recycled")
            return
        while self._waiting and self._waiting[0].worker.done():
            self._waiting.popleft()  # cancelled, but its task has not run yet
        if not self._waiting:
            self._idle.append(worker)
        elif worker.begin(self._waiting[0]):
            self._waiting.popleft().worker.set_result(worker)
        else:
            self._end(worker, "crash")

    def _end_at(self, job: PendingJob, worker: PoolProcess, reason: str) -> None:
        if worker.works_on(job):
            self._end(worker, reason)

    def _end(self, worker: PoolProcess, reason: str) -> None:
        """Kill a worker and start another."""
        worker.end(WorkerDied(reason))
        self._replace(worker, reason)

    def _replace(self, worker: PoolProcess, reason: str) -> None:
        """Close a worker and start another; later calls for the same worker have no effect."""
        # A worker can be lost and ended at the same time, for example by its deadline.
        if worker not in self._workers:
            return
        self._restarts[reason] += 1
        self._workers.discard(worker)
        with suppress(ValueError):
            self._idle.remove(worker)
        _track(asyncio.create_task(worker.aclose()), self._ending)
        if not self._closed:
            self._start_later()

    def _start_later(self) -> None:
        # An empty context: log entries of the new worker do not belong to the current request.
        restart = Context().run(self._supervisor.start, BackgroundTask.WORKER_START, self._restart)
        _track(restart, self._starting)

    async def _restart(self) -> None:
        backoff_s = _MIN_BACKOFF_S
        while not self._closed and not await self._start():
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    async def _start(self) -> bool:
        """Start one process; return whether it is ready."""
        try:
            worker = await self._spawn()
        except (WorkerDied, WorkerUnfit, OSError) as error:
            self._restarts["start"] += 1
            log.warning("worker_start_failed", error=str(error))
            # Not if this process may open no more files: nothing closes any before the start.
            temporary = isinstance(error, OSError) and error.errno != errno.EMFILE
            self._start_may_succeed = temporary or str(error) == "start"
            if isinstance(error, WorkerUnfit):
                self._start_error = str(error)
            elif self._start_may_succeed:
                self._start_error = (
                    "no worker process was ready in time: the machine is overloaded, or lacks"
                    " memory or descriptors"
                )
            return False
        self._hello = worker.hello
        self._workers.add(worker)
        # The pool was closed while the process started.
        if self._closed:
            await worker.aclose()
            return False
        worker.attend(on_free=self._on_free, on_lost=self._replace)
        self._on_free(worker)
        return True

    async def _spawn(self) -> PoolProcess:
        """Start a process and check its sandbox, if the settings require one."""
        worker = await self._start_process()
        gaps = _gaps(worker.hello)
        if gaps and self._settings.require_sandbox:
            worker.kill()
            await worker.aclose()
            listed = "; ".join(f"{feature}: {reason}" for feature, reason in gaps.items())
            raise WorkerUnfit(f"require_sandbox is set, but the sandbox is incomplete: {listed}")
        return worker

    async def _start_worker(self) -> PoolProcess:
        return await start_worker(
            self._start_options,
            timeout_s=self._settings.start_timeout_s,
            wall_factor=self._settings.wall_clock_factor,
            supervisor=self._supervisor,
        )

    async def check(self) -> None:
        """Return when an idle worker has replied, or when all workers are busy.

        Raises:
            ShuttingDown: no worker is running, or the worker did not reply and was replaced.
        """
        if not any(worker.alive for worker in self._workers):
            raise ShuttingDown("no worker process is running")
        # Busy workers prove their health by replying within the deadline.
        if not self._idle:
            return
        try:
            with PendingJob(Ping(), None, lambda _: None) as ping:
                worker = await self._assign(ping)
                await self._result(ping, worker, _PING_S)
        except WorkerDied as death:
            raise ShuttingDown("a worker process did not answer") from death

    async def aclose(self) -> None:
        """Kill all processes, also those at work, and wait for their end."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for job in self._waiting:
            if not job.worker.done():
                job.worker.set_exception(ShuttingDown("the server is stopping"))
        self._waiting.clear()
        for worker in self._workers:
            # `started=False`: a stop of the server must not quarantine an image.
            worker.end(WorkerDied("cancelled", started=False))
            _track(asyncio.create_task(worker.aclose()), self._ending)
        self._workers.clear()
        self._idle.clear()  # the pool may be entered again
        await asyncio.gather(*self._ending)
        if self._decoders is not None:
            await self._decoders.aclose()

    @property
    def gaps(self) -> Mapping[str, str]:
        """Sandbox features that are not active, each with its reason."""
        return _gaps(self.hello)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the running workers."""
        return tuple(worker.pid for worker in self._workers if worker.alive)

    def statistics(self) -> Mapping[str, float]:
        """Return counts of workers by state, jobs, caught exceptions, and restarts by reason."""
        restarts = {f"restarts_{reason}": self._restarts[reason] for reason in RESTART_REASONS}
        # A copy: tests read the metrics in another thread.
        up = sum(worker.alive for worker in tuple(self._workers))
        idle = len(self._idle)
        counts = {"up": up, "idle": idle, "busy": len(self._workers) - idle}
        jobs = {"waiting": len(self._waiting), "jobs": self._jobs, "exceptions": self._exceptions}
        found = {**counts, **jobs, **restarts}
        if self._decoders is not None:
            others = self._decoders.pool.statistics()
            # A job that was passed on is counted once.
            return {name: found[name] + others[name] * (name != "jobs") for name in found}
        return found


def _death_error(death: WorkerDied, *, repeated: bool) -> SmartserveError:
    """Return the error for a job that is not repeated (again)."""
    if death.reason == "deadline":
        return RenderTimeout("the image took too long to render")
    if repeated:
        return SourceQuarantined("the image made its workers crash and is refused for a while")
    return RenderFault("the worker process ended while it was writing the image")


def _gaps(hello: WorkerInfo) -> dict[str, str]:
    return {feature: state for feature, state in hello.sandbox.items() if state != HOLDS}


async def _first_ready(starts: list[asyncio.Task[bool]]) -> bool:
    """Return True as soon as one worker is ready, or False if none started."""
    for start in asyncio.as_completed(starts):
        if await start:
            return True
    return False


def _track(task: asyncio.Task[Any], tasks: set[asyncio.Task[Any]]) -> None:
    """Hold a reference to a task until it is done: the event loop only holds a weak one."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
