"""Builds the extraction of metadata, whose processes start with the first file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from proxy.domain.errors import ConfigurationError
from proxy.metadata.extraction import IDLE_STATISTICS
from proxy.metadata.extractor import COUNTS, Extractor
from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor
from proxy.settings import Settings
from proxy.telemetry.metrics import MetadataMetrics

if TYPE_CHECKING:
    from proxy.metadata.service import MetadataService

_SWEEP_S = 3600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MetadataServices:
    """The services of metadata."""

    extractor: Extractor


@asynccontextmanager
async def open_metadata_services(
    settings: Settings, supervisor: TaskSupervisor, telemetry: MetadataMetrics
) -> AsyncIterator[MetadataServices | None]:
    """Open the services, or yield None if they are disabled; no process is started yet."""
    own = settings.metadata
    if not own.enabled:
        yield None
        return

    def open_service() -> AbstractAsyncContextManager[MetadataService]:
        # With the first file: most servers start without one.
        from proxy.metadata.service import open_metadata  # noqa: PLC0415

        return open_metadata(own, settings.workers, supervisor=supervisor, telemetry=telemetry)

    async def sweep() -> None:
        await asyncio.to_thread(_sweep, own.temp_root)

    async with AsyncExitStack() as stack:
        # Not in the way of the start: files of a process that was killed can wait for a moment.
        await stack.enter_async_context(
            supervisor.running(BackgroundTask.METADATA_SWEEP, sweep, every_s=_SWEEP_S)
        )
        processes = own.worker_settings(settings.workers).processes
        extractor = Extractor(own, open_service, processes=processes)
        stack.push_async_callback(extractor.aclose)
        yield MetadataServices(extractor)


def metadata_statistics(metadata: MetadataServices | None) -> Mapping[str, float]:
    """Return the figures of all services; 0 for those that are disabled."""
    return _DISABLED if metadata is None else metadata.extractor.statistics()


_DISABLED = {**IDLE_STATISTICS, "uploads": 0.0, **dict.fromkeys(COUNTS, 0.0)}


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
