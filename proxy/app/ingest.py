"""The ingest worker, joined: steps and loop over the rooms, and the main API before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.app.services import Services, open_analyst
from proxy.domain.pending_image import Step
from proxy.ingest.item_runner import ItemRunner
from proxy.ingest.main_api.client import HttpMainApi
from proxy.ingest.step_retry import StepRetrier, Work
from proxy.ingest.steps.analyse import AnalyseStep
from proxy.ingest.steps.callback import CallbackStep
from proxy.ingest.steps.download import DownloadStep
from proxy.ingest.steps.media_of_item import IngestMediaLoader
from proxy.ingest.steps.render import RenderStep
from proxy.ingest.worker_loop import WorkerLoop, new_worker_id
from proxy.settings import Settings, main_api_key
from proxy.storage.database.analysis_repository import AnalysisRepository
from proxy.storage.database.ingest_progress import IngestProgress
from proxy.storage.database.ingest_queue import IngestQueue


@dataclass(frozen=True, slots=True)
class IngestUrls:
    """Where the two sides are, without a slash in the end."""

    main_api: str
    media_backend: str
    """What the addresses of media begin with."""


def has_worker(settings: Settings) -> bool:
    """Whether there is a main API for a worker to ask: another one, or this server."""
    return bool(settings.ingest.main_api_url) or settings.main.enabled


def open_main_api(settings: Settings, address: str) -> HttpMainApi:
    """The main API at an address; enter it. Reads a key file.

    Raises:
        ConfigurationError: the key cannot be read.
    """
    return HttpMainApi(
        address,
        main_api_key(settings.ingest, settings.main, settings.key_directory),
        timeout_s=settings.ingest.request_timeout_s,
        max_bytes=settings.storage.max_original_bytes,
    )


@asynccontextmanager
async def open_ingest(rooms: Services, addresses: IngestUrls) -> AsyncIterator[WorkerLoop]:
    """A worker that has not begun; see `proxy.ingest.worker_loop.at_work`.

    Raises:
        ConfigurationError: a key cannot be read.
    """
    settings, storage = rooms.settings, rooms.storage
    async with open_main_api(settings, addresses.main_api) as api, open_analyst(rooms) as analyst:
        progress, analyses = IngestProgress(storage.writer), AnalysisRepository(storage.writer)
        shelf = IngestMediaLoader(rows=storage.catalogue, inspector=rooms.inspector)
        examiner = AnalyseStep(
            shelf=shelf,
            analyst=analyst,
            analyses=analyses,
            progress=progress,
            changed=storage.changed,
        )
        steps: dict[Step, Work] = {
            Step.RETRIEVE_FILE: DownloadStep(
                api=api,
                checker=rooms.checker,
                originals=storage.sources,
                progress=progress,
                root=settings.storage_root,
                changed=storage.changed,
            ),
            Step.AI_VISUAL_ANALYSIS: examiner,
            Step.RESIZE_OPTIMIZE: _optimiser(rooms, shelf, progress),
            Step.UPDATE_CALLBACK: CallbackStep(
                api=api,
                shelf=shelf,
                analyses=analyses,
                planner=rooms.planner,
                progress=progress,
                base=addresses.media_backend,
            ),
        }
        if not settings.ingest.analyse:
            # To call it completed with nothing to show would be a lie: it stays pending.
            del steps[Step.AI_VISUAL_ANALYSIS]
        revisits = examiner if settings.ingest.analyse else None
        yield _ingest(rooms, api, rooms.tracing.steps(steps), progress, revisits)


def _optimiser(rooms: Services, shelf: IngestMediaLoader, progress: IngestProgress) -> RenderStep:
    return RenderStep(
        shelf=shelf,
        workshop=rooms.workshop,
        planner=rooms.planner,
        finisher=rooms.finisher,
        originals=rooms.storage.sources,
        wishes=rooms.upgrader,
        progress=progress,
        root=rooms.settings.storage_root,
        renditions=rooms.settings.ingest.renditions,
        changed=rooms.storage.changed,
    )


def _ingest(
    rooms: Services,
    api: HttpMainApi,
    steps: Mapping[Step, Work],
    progress: IngestProgress,
    revisits: AnalyseStep | None,
) -> WorkerLoop:
    section, worker_id = rooms.settings.ingest, new_worker_id()
    queue = IngestQueue(rooms.storage.writer)
    attempts = StepRetrier(
        progress=progress,
        deadlines=rooms.deadlines,
        settings=section,
        worker_id=worker_id,
        telemetry=rooms.metrics.ingest,
    )
    taker = ItemRunner(
        api=api,
        queue=queue,
        attempts=attempts,
        steps=steps,
        revisits=revisits,
        settings=section,
        changed=rooms.storage.changed,
    )
    return WorkerLoop(
        api=api,
        queue=queue,
        taker=taker,
        deadlines=rooms.deadlines,
        settings=section,
        worker_id=worker_id,
        woken=rooms.woken,
        telemetry=rooms.metrics.ingest,
        supervisor=rooms.supervisor,
    )
