"""Opens what a task of bulk work needs, and runs it for one image."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from proxy.app.ingest import open_analyst
from proxy.app.metadata import open_metadata_services
from proxy.app.services import Services, open_services
from proxy.app.storage import StorageServices, open_storage
from proxy.domain.bulk import BulkTask
from proxy.domain.errors import ConfigurationError, MediaNotFound, SourceChanged, SourceMissing
from proxy.domain.media import Media
from proxy.runtime.supervised_task import UNCOUNTED
from proxy.settings import Settings
from proxy.storage.database.metadata_store import engine_text
from proxy.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task that can be run."""

    storage: StorageServices
    process: Callable[[int], Awaitable[object]]
    """Runs the task for the image with an id.

    It raises a CapacityError if it is to be repeated, another SmartserveError if it failed.
    """
    concurrency: int
    """How many images it processes at once."""


def open_task(settings: Settings, task: BulkTask) -> AbstractAsyncContextManager[OpenTask]:
    """Open a task for the block.

    Raises:
        ConfigurationError: the settings or the machine are unfit.
    """
    # Extraction has engines of its own, and needs no worker that renders.
    if task is BulkTask.EXTRACT:
        return _open_extraction(settings)
    return _open_rendering_task(settings, task)


@asynccontextmanager
async def _open_rendering_task(settings: Settings, task: BulkTask) -> AsyncIterator[OpenTask]:
    async with open_services(settings) as services, open_analyst(services) as analyst:

        async def analyse(media_id: int) -> None:
            stored = await services.storage.analyses.find(media_id)
            if stored is None or stored.outdated:
                media = await _find(services.storage, media_id)
                facts = await services.serving.facts.facts(media)
                analysis = await analyst.analyse(media, facts, stored=stored)
                await services.storage.writer.store_analysis(media_id, analysis)

        async def render(media_id: int) -> None:
            await services.storage.purger.medium(media_id)
            await services.serving.warmer.warm(media_id)

        processes: dict[BulkTask, Callable[[int], Awaitable[object]]] = {
            BulkTask.WARM: services.serving.warmer.warm,
            BulkTask.RENDER: render,
            BulkTask.ANALYSE: analyse,
            BulkTask.CHECK: partial(_check, services),
        }
        yield OpenTask(services.storage, processes[task], settings.workers.processes)
        await services.serving.renderer.drain()


async def _check(services: Services, media_id: int) -> None:
    """Decode an original completely, and compare its hash with that of the stored facts."""
    media = await _find(services.storage, media_id)
    if media.source_path is None:
        raise SourceMissing("the medium has no file")
    with await services.storage.originals.open(media.source_path) as source:
        found = await services.checker.check(source.descriptor)
    if media.known_facts is not None and found.content_hash != media.known_facts.content_hash:
        raise SourceChanged("the content of the original differs from what was stored")


@asynccontextmanager
async def _open_extraction(settings: Settings) -> AsyncIterator[OpenTask]:
    async with open_storage(settings) as storage:
        opening = open_metadata_services(settings, storage, UNCOUNTED, Metrics().metadata)
        async with opening as metadata:
            if metadata is None:
                raise ConfigurationError(["metadata.enabled is false, so nothing is extracted"])
            service = await metadata.extractor.started()
            name = "pillow" if service.missing else "exiftool"
            engine = engine_text(name, service.versions[name])

            async def extract(media_id: int) -> None:
                if media_id not in await storage.metadata.extracted_by(engine, [media_id]):
                    await metadata.media.store(await _find(storage, media_id))

            concurrency = settings.metadata.worker_settings(settings.workers).processes
            yield OpenTask(storage, extract, concurrency)


async def _find(storage: StorageServices, media_id: int) -> Media:
    media = await storage.repository.find(media_id)
    if media is None:
        raise MediaNotFound("there is no image with this id")
    return media
