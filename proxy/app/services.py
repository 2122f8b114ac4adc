"""Opens all subsystems of a process in their order, and closes them in the reverse order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from proxy.app.metadata import MetadataServices, open_metadata_services
from proxy.app.originals import in_buckets
from proxy.app.rendering import RenderingServices, open_rendering
from proxy.app.serving import ServingServices, open_serving
from proxy.app.storage import StorageServices, open_storage
from proxy.app.workers import StartingWorkers, workers_starting
from proxy.ingest.item_runner import StepTimeouts
from proxy.ingest.worker_loop import QueueMetrics
from proxy.library.adoption.fallback_renditions import FallbackRenderer
from proxy.library.import_files import FileImporter
from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor
from proxy.serving.source_facts import SourceChecker
from proxy.settings import Settings
from proxy.storage.database.ingest_report import queue_report
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import OFF, Tracing


@dataclass(frozen=True, slots=True)
class Services:
    """All services of a process, by subsystem."""

    settings: Settings
    metrics: Metrics
    tracing: Tracing
    supervisor: TaskSupervisor
    storage: StorageServices
    rendering: RenderingServices
    serving: ServingServices
    checker: SourceChecker
    importer: FileImporter
    fallback_renderer: FallbackRenderer
    queue_metrics: QueueMetrics
    metadata: MetadataServices | None
    """None if `metadata.enabled` is false."""
    step_timeouts: StepTimeouts
    """Of the embedded ingest worker."""
    upload_arrived: asyncio.Event
    """Wakes the embedded ingest worker."""


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    tracing: Tracing = OFF,
    workers: StartingWorkers | None = None,
    on_change: Callable[[], None] | None = None,
) -> AsyncIterator[Services]:
    """Open everything and start the workers; at the end, stop the work under way and close it.

    ``workers`` may have been started before. ``on_change`` is called after a purge or a change of
    a row was committed here.

    Raises:
        ConfigurationError: the settings or the machine are unfit, or libvips is too old.
    """
    async with AsyncExitStack() as stack:
        if workers is None:
            workers = await stack.enter_async_context(workers_starting(settings))
        metrics, supervisor = workers.metrics, workers.supervisor
        # Storage first: the workers start meanwhile.
        storage = await stack.enter_async_context(
            open_storage(settings, supervisor, on_change=on_change)
        )
        rendering = await stack.enter_async_context(
            open_rendering(settings, storage.originals, workers)
        )
        serving = await stack.enter_async_context(
            open_serving(settings, storage, rendering, metrics=metrics, supervisor=supervisor)
        )
        metadata = await stack.enter_async_context(
            open_metadata_services(settings, storage, supervisor, metrics.metadata)
        )
        # Closed before serving and storage, which steps that run late still use.
        step_timeouts = StepTimeouts(settings.ingest)
        stack.push_async_callback(step_timeouts.aclose)
        if storage.redis is not None:
            # Last: all parts have subscribed to their channels.
            await stack.enter_async_context(
                supervisor.running(BackgroundTask.REDIS_LISTENER, storage.redis.listen)
            )
        # Runs first at the end: no new job is accepted while the rest is closed.
        stack.callback(rendering.admission.close)
        checker = SourceChecker(
            dispatcher=rendering.upload_dispatcher,
            limits=rendering.rules.limits,
            accepted=settings.limits.source_types,
            max_bytes=settings.storage.max_original_bytes,
        )
        yield Services(
            settings=settings,
            metrics=metrics,
            tracing=tracing,
            supervisor=supervisor,
            storage=storage,
            rendering=rendering,
            serving=serving,
            checker=checker,
            importer=FileImporter(
                catalogue=storage.repository,
                originals=storage.local_originals,
                checker=checker,
                remote=storage.http_originals,
                buckets=in_buckets(storage.originals),
            ),
            fallback_renderer=FallbackRenderer(
                database=storage.repository, planner=serving.planner, finals=serving.finals
            ),
            metadata=metadata,
            queue_metrics=QueueMetrics(partial(queue_report, storage.writer)),
            step_timeouts=step_timeouts,
            upload_arrived=asyncio.Event(),
        )
