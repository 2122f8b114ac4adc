"""Creates worker pools from the settings; the server starts its first worker before its imports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from proxy.rendering import face_model
from proxy.rendering.pool.on_demand import OnDemandPool
from proxy.rendering.pool.pool import DECODERS, WorkerPool
from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import Settings
from proxy.telemetry.metrics import Metrics

# Seconds without a job after which the workers with other decoders end.
_DECODERS_IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class StartingWorkers:
    """A pool whose first process is starting, and what counts its restarts."""

    pool: WorkerPool
    metrics: Metrics
    supervisor: TaskSupervisor


@asynccontextmanager
async def workers_starting(
    settings: Settings, *, elsewhere: frozenset[BackgroundTask] = frozenset()
) -> AsyncIterator[StartingWorkers]:
    """Start the first worker without waiting for it; close the pool after the block.

    ``elsewhere`` are the background tasks that another process runs.
    """
    metrics = Metrics()
    supervisor = TaskSupervisor(metrics.background_restarted, elsewhere)
    pool = _new_pool(settings, supervisor)
    pool.begin()
    try:
        yield StartingWorkers(pool, metrics, supervisor)
    finally:
        await pool.aclose()


def one_worker(settings: Settings) -> WorkerPool:
    """Return a pool of one worker, configured as for rendering; the caller enters it."""
    return _new_pool(_with_one_worker(settings), UNCOUNTED)


def idle_worker(settings: Settings, supervisor: TaskSupervisor) -> WorkerPool:
    """Return a pool of one worker that runs only while the processor is otherwise idle."""
    return _new_pool(_with_one_worker(settings), supervisor, idle=settings.upgrades.idle_priority)


def face_worker(settings: Settings, supervisor: TaskSupervisor) -> WorkerPool:
    """Return a pool of the one process that detects faces."""
    return WorkerPool(
        _with_one_worker(settings).workers,
        source_types=settings.limits.source_types,
        max_output_bytes=0,
        supervisor=supervisor,
        module="proxy.rendering.worker.face_worker",
        extra={"model": str(settings.face_directory / face_model.FILE_NAME)},
    )


def _with_one_worker(settings: Settings) -> Settings:
    workers = settings.workers.model_copy(update={"count": 1})
    return settings.model_copy(update={"workers": workers})


def _new_pool(settings: Settings, supervisor: TaskSupervisor, *, idle: bool = False) -> WorkerPool:
    def new(**options: Any) -> WorkerPool:
        return WorkerPool(
            settings.workers,
            source_types=settings.limits.source_types,
            max_output_bytes=settings.renditions.max_rendition_bytes,
            # Above every deadline: the kernel's limit only matters if the server cannot enforce
            # them.
            max_cpu_s=2 * max(settings.workers.deadline_s, settings.upgrades.deadline_s),
            idle=idle,
            supervisor=supervisor,
            **options,
        )

    pool = new()
    pool.pass_on_to(OnDemandPool(new(extra=DECODERS), idle_s=_DECODERS_IDLE_S))
    return pool
