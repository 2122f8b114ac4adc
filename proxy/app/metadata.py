"""Builds the services of metadata extraction. Their processes start with the first file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from proxy.app.storage import StorageServices
from proxy.domain.errors import ConfigurationError
from proxy.ingest.callbacks import Callbacks
from proxy.ingest.job_files import JobFiles
from proxy.ingest.metadata_jobs import COUNTS as JOB_COUNTS
from proxy.ingest.metadata_jobs import MetadataJobs, MetadataJobWorker
from proxy.metadata.cache import SqlExtractionCache
from proxy.metadata.extraction import IDLE_STATISTICS
from proxy.metadata.extractor import COUNTS, Extractor
from proxy.metadata.media_extraction import MediaExtractor
from proxy.metadata.progress import ProgressHub
from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor
from proxy.settings import Settings, callback_key
from proxy.storage.database.metadata_jobs import MetadataJobTable
from proxy.storage.database.transactions import SqlDatabase
from proxy.telemetry.metrics import MetadataMetrics

if TYPE_CHECKING:
    from proxy.metadata.service import MetadataService

_SWEEP_S = 3600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MetadataServices:
    """The services of metadata."""

    extractor: Extractor
    media: MediaExtractor
    """Extracts the metadata of media by their rows."""
    jobs: MetadataJobs
    cache: SqlExtractionCache
    progress: ProgressHub = field(default_factory=ProgressHub)
    """Progress of uploads, for the sockets of this process."""


@asynccontextmanager
async def open_metadata_services(
    settings: Settings,
    storage: StorageServices,
    supervisor: TaskSupervisor,
    telemetry: MetadataMetrics,
) -> AsyncIterator[MetadataServices | None]:
    """Open the services, or yield None if they are disabled; no process is started yet."""
    own = settings.metadata
    if not own.enabled:
        yield None
        return

    def open_service() -> AbstractAsyncContextManager[MetadataService]:
        # Deferred to the first file: many servers never extract metadata.
        from proxy.metadata.start import open_metadata  # noqa: PLC0415

        return open_metadata(own, settings.workers, supervisor=supervisor, telemetry=telemetry)

    async def sweep() -> None:
        await asyncio.to_thread(_sweep, own.temp_root)

    async with AsyncExitStack() as stack:
        # In the background: the files of killed processes must not delay the start.
        await stack.enter_async_context(
            supervisor.running(BackgroundTask.METADATA_SWEEP, sweep, every_s=_SWEEP_S)
        )
        # A connection for each job, one for callbacks, and one for requests.
        size = min(settings.database.pool_size, own.concurrency + 2)
        section = settings.database.model_copy(update={"pool_size": size})
        database = await stack.enter_async_context(
            SqlDatabase(settings.database_url, section, isolation="READ COMMITTED")
        )
        cache = SqlExtractionCache(database, own)
        await stack.enter_async_context(
            supervisor.running(
                BackgroundTask.METADATA_CACHE_PRUNING,
                cache.prune,
                every_s=_SWEEP_S,
                first_after_s=_SWEEP_S,
            )
        )
        processes = own.worker_settings(settings.workers).processes
        extractor = Extractor(
            own, open_service, processes=processes, cache=cache if own.cache_ttl_s else None
        )
        stack.push_async_callback(extractor.aclose)
        jobs = await _open_jobs(settings, database, stack)
        media = MediaExtractor(extractor, storage.originals, storage.metadata)
        yield MetadataServices(extractor, media, jobs, cache)


async def _open_jobs(
    settings: Settings, database: SqlDatabase, stack: AsyncExitStack
) -> MetadataJobs:
    own = settings.metadata
    # In a thread, because it reads or creates a file; without hosts no callback is sent.
    key = ""
    if own.callback_hosts:
        key = await asyncio.to_thread(callback_key, own, settings.key_directory)
    files = JobFiles(settings.metadata_job_root, settings.storage)
    stack.push_async_callback(files.aclose)
    table = MetadataJobTable(
        database,
        lease_s=own.job_lease_s,
        max_attempts=own.job_attempts,
        retention_s=own.job_retention_s,
    )
    return MetadataJobs(
        table=table, files=files, callbacks=Callbacks(own.callback_hosts, key), settings=own
    )


def job_worker(
    services: MetadataServices, storage: StorageServices, supervisor: TaskSupervisor
) -> MetadataJobWorker:
    """Return a worker that does not run yet; a job that is added here wakes it."""
    worker = MetadataJobWorker(
        services.jobs,
        services.extractor,
        media=storage.repository,
        originals=storage.originals,
        supervisor=supervisor,
    )
    services.jobs.on_job = worker.wake
    return worker


def metadata_statistics(metadata: MetadataServices | None) -> Mapping[str, float]:
    """Return the figures of all services; 0 for those that are disabled."""
    if metadata is None:
        return _DISABLED
    return {**metadata.extractor.statistics(), **metadata.jobs.statistics()}


_OWN = ("uploads", *COUNTS, "pending_jobs", *JOB_COUNTS)
_DISABLED = {**IDLE_STATISTICS, **dict.fromkeys(_OWN, 0.0)}


def _sweep(root: str) -> None:
    """Remove what killed processes have left; log if the folder cannot be used."""
    from proxy.metadata.temp_folder import TempFolder  # noqa: PLC0415 - not needed at start

    try:
        TempFolder(Path(root)).sweep()
    except ConfigurationError as error:
        # Images are served without it; uploads to the metadata routes are refused.
        log.warning("metadata_folder_unfit", category="security", reasons=error.faults)
    except OSError as error:
        log.warning("metadata_folder_unfit", category="error", reasons=[error.strerror])
