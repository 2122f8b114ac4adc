"""Builds the rendering subsystem: worker pools, admission, and the job dispatchers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from cachetools import LRUCache

from proxy.app.startup_checks import check_worker
from proxy.app.workers import StartingWorkers, idle_worker, one_worker
from proxy.domain.render_plan import RenderRules
from proxy.domain.variant import recipe
from proxy.domain.worker_protocol import WorkerInfo
from proxy.rendering import face_model
from proxy.rendering.pool.admission import Admission, FailureCache
from proxy.rendering.pool.pool import WorkerPool
from proxy.serving.job_dispatch import MAX_VERSIONS, JobDispatcher, SourceVersion
from proxy.settings import Settings
from proxy.storage.originals import OriginalReader


@dataclass(frozen=True, slots=True)
class RenderingServices:
    """The worker pools, and one dispatcher for each kind of work."""

    pool: WorkerPool
    """For clients and uploads; running."""
    background_pool: WorkerPool
    """One worker at idle priority for finals; started by the queue of finals."""
    admission: Admission
    rules: RenderRules
    dispatcher: JobDispatcher
    """For the requests of clients."""
    upload_dispatcher: JobDispatcher
    """As `dispatcher`, for uploads, whose workers it counts apart."""
    background_dispatcher: JobDispatcher
    dispatcher_of: Callable[[WorkerPool], JobDispatcher]
    """Returns a dispatcher for another pool, with an admission and a failure cache of its own."""


@asynccontextmanager
async def open_rendering(
    settings: Settings, originals: OriginalReader, workers: StartingWorkers
) -> AsyncIterator[RenderingServices]:
    """Start all processes of the worker pool and end them after the block.

    Raises:
        ConfigurationError: no worker starts, or its libvips is too old.
    """
    async with workers.pool as pool:
        # Only a worker knows the version of libvips: the server process never loads it.
        check_worker(pool.hello)
        admission = Admission(settings.workers)
        # One worker: finals must not compete with the renders that clients wait for.
        background = idle_worker(settings, workers.supervisor)
        versions: LRUCache[int, SourceVersion] = LRUCache(MAX_VERSIONS)
        new_dispatcher = partial(_new_dispatcher, settings, originals, versions)
        dispatcher = new_dispatcher(pool, admission)

        def own_dispatcher(other: WorkerPool) -> JobDispatcher:
            return new_dispatcher(other, Admission(settings.workers))

        yield RenderingServices(
            pool=pool,
            background_pool=background,
            admission=admission,
            rules=_render_rules(settings, pool.hello),
            dispatcher=dispatcher,
            # Shares pool, admission and failure cache: uploads and clients use the same workers.
            upload_dispatcher=dispatcher.counted_apart(),
            # With an admission of its own, so that finals take no places in the queue of clients.
            background_dispatcher=own_dispatcher(background),
            dispatcher_of=own_dispatcher,
        )


async def worker_info(settings: Settings) -> WorkerInfo:
    """Start a worker, and return the versions and formats that it reports.

    Raises:
        ConfigurationError: the worker does not start.
    """
    async with one_worker(settings) as pool:
        return pool.hello


def _new_dispatcher(
    settings: Settings,
    originals: OriginalReader,
    versions: LRUCache[int, SourceVersion],
    pool: WorkerPool,
    admission: Admission,
) -> JobDispatcher:
    failures = FailureCache(
        failure_s=settings.lifetimes.failure_s, quarantine_s=settings.workers.quarantine_s
    )
    return JobDispatcher(
        sources=originals, pool=pool, admission=admission, failures=failures, versions=versions
    )


def _render_rules(settings: Settings, worker: WorkerInfo) -> RenderRules:
    """Return what decides a variant, limited to the source types that libvips can load."""
    limits, encoders = settings.limits.to_limits(), settings.encoders
    loadable = tuple(kind for kind in limits.source_types if kind in worker.source_types)
    notice, hints = encoders.copyright or None, settings.client_hints
    stages = encoders.stages(finals=settings.upgrades.enabled)
    return RenderRules(
        stages=stages,
        order=encoders.order,
        sizes=settings.size_specs(),
        limits=replace(limits, source_types=loadable),
        recipe=recipe(worker.libvips, copyright_notice=notice),
        copyright_notice=notice,
        prefer_smallest=encoders.prefer_smallest,
        lean_stages=hints.leaner(stages) if hints.enabled else None,
        detects_faces=settings.faces.enabled and not face_model.missing(settings.face_directory),
    )
