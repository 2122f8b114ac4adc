"""Builds the ingest worker and its access to the main API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from proxy.analysis.analyst import Analyst
from proxy.analysis.providers.embedding import EmbeddingModel
from proxy.analysis.providers.factory import open_providers
from proxy.analysis.providers.tesseract import TextReader
from proxy.app.services import Services
from proxy.domain.upload import Step
from proxy.ingest.item_runner import ItemRunner
from proxy.ingest.main_api import MainApi
from proxy.ingest.main_api.client import HttpMainApi
from proxy.ingest.steps import IngestSteps
from proxy.ingest.uploads.upload_queue import LocalMainApi, UploadQueue
from proxy.ingest.worker_loop import WorkerLoop, new_worker_id
from proxy.settings import Settings, main_api_key
from proxy.storage.database.ingest_queue import IngestQueue


@dataclass(frozen=True, slots=True)
class IngestUrls:
    """Addresses of both servers, without a trailing slash."""

    main_api: str
    media_backend: str
    """Prefix of the addresses of media; empty if no address is known that others can reach."""


def has_worker(settings: Settings) -> bool:
    """Return whether there is a main API to poll: another server, or this one."""
    return bool(settings.ingest.main_api_url) or settings.main.enabled


def open_main_api(settings: Settings, address: str) -> HttpMainApi:
    """Return the main API at an address without a trailing slash, to be entered by the caller.

    Reads a key file.

    Raises:
        ConfigurationError: the key cannot be read.
    """
    return HttpMainApi(
        base=address,
        key=main_api_key(settings.ingest, settings.main, settings.key_directory),
        timeout_s=settings.ingest.request_timeout_s,
        max_bytes=settings.storage.max_original_bytes,
        storage_root=settings.storage_root,
    )


def local_queue(
    settings: Settings, urls: IngestUrls, queue: UploadQueue | None, port: int
) -> UploadQueue | None:
    """Return ``queue`` if the main API of the worker is this server, which listens on ``port``."""
    # The settings may name this server by its local or by its public address.
    own = urls.main_api in (settings.local_url(port), settings.base_url(port))
    return queue if own else None


@asynccontextmanager
async def open_analyst(services: Services) -> AsyncIterator[Analyst]:
    """Build an analyst with the providers that have a key.

    Raises:
        ConfigurationError: a key file cannot be read.
    """
    section = services.settings.vision
    async with open_providers(section) as providers:
        yield Analyst(
            dispatcher=services.rendering.upload_dispatcher,
            limits=services.rendering.rules.limits,
            providers=[one for one in providers if not isinstance(one, EmbeddingModel)],
            embedding_model=next(
                (one for one in providers if isinstance(one, EmbeddingModel)), None
            ),
            reader=TextReader(section.text, services.settings.workers),
            image_side=section.image_side,
            find_brand=services.storage.analyses.find_brand,
        )


@asynccontextmanager
async def open_ingest(
    services: Services, addresses: IngestUrls, *, queue: UploadQueue | None = None
) -> AsyncIterator[WorkerLoop]:
    """Build a worker that does not run yet; see `proxy.ingest.worker_loop.running_worker`.

    With ``queue`` it works on the uploads of this process and sends no HTTP requests.

    Raises:
        ConfigurationError: a key cannot be read.
    """
    settings, storage = services.settings, services.storage
    # A queue of this process is closed by its owner, the HTTP client by this block.
    opened: AbstractAsyncContextManager[MainApi] = (
        open_main_api(settings, addresses.main_api)
        if queue is None
        else nullcontext(LocalMainApi(queue))
    )
    async with opened as api, open_analyst(services) as analyst:
        # With the dispatcher of uploads, whose workers are counted apart from those of clients.
        section, serving = settings.ingest, services.serving
        steps = IngestSteps(
            api=api,
            media=storage.repository,
            facts=serving.facts,
            progress=storage.writer,
            changed=storage.changed,
            checker=services.checker,
            originals=storage.local_originals,
            storage_root=settings.storage_root,
            analyst=analyst,
            analyses=storage.analyses,
            dispatcher=services.rendering.upload_dispatcher,
            planner=serving.planner,
            finals=serving.finals,
            finals_queue=serving.finals_queue,
            metadata=services.metadata.media if services.metadata else None,
            renditions=section.renditions,
            base_url=addresses.media_backend,
        )
        functions = {
            Step.RETRIEVE_FILE: steps.download,
            Step.AI_VISUAL_ANALYSIS: steps.analyse,
            Step.RESIZE_OPTIMIZE: steps.render,
            Step.UPDATE_CALLBACK: steps.callback,
        }
        if not section.analyse:
            # Not recorded as completed: the checklist must not claim an analysis that is absent.
            del functions[Step.AI_VISUAL_ANALYSIS]
        runner = ItemRunner(
            api=api,
            queue=IngestQueue(storage.writer),
            progress=storage.writer,
            timeouts=services.step_timeouts,
            steps=functions,
            analyses=steps,
            settings=section,
            worker_id=new_worker_id(),
            metrics=services.metrics.ingest,
            changed=storage.changed,
            extract_metadata=steps.extract_metadata if section.extract_metadata else None,
        )
        yield WorkerLoop(runner, services.upload_arrived, services.supervisor)
