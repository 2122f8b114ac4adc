"""Runs the server of ``smartserve serve``.

`proxy.cli.serve` imports this module, and with it most of the program, while the workers start.
"""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import structlog

from proxy import __version__
from proxy.app.ingest import has_worker, local_queue, open_ingest
from proxy.app.metadata import job_worker
from proxy.app.services import Services, open_services
from proxy.app.startup_checks import start_tracing
from proxy.app.uploads import open_uploads
from proxy.app.web import build_http_server
from proxy.app.workers import StartingWorkers
from proxy.cli.base import CLOSE_S, address_recorded, end_process_after
from proxy.cli.ingest import ingest_urls
from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import DataType
from proxy.domain.urls import image_url
from proxy.ingest.worker_loop import running_worker
from proxy.library.import_files import walk
from proxy.runtime.stop_signals import StopSignals
from proxy.runtime.supervised_task import BackgroundTask
from proxy.runtime.systemd_notify import ServiceManager, service_notifications
from proxy.settings import Settings

log = structlog.get_logger(__name__)

SAMPLES = Path(__file__).parents[1] / "samples"
"""Images to try the server with; the folder has a file that names their origin."""


async def start_server(
    stack: AsyncExitStack,
    workers: StartingWorkers,
    settings: Settings,
    signals: StopSignals,
    *,
    samples: bool,
) -> None:
    """Start all parts and print the address; ``stack`` stops them in the reverse order.

    ``samples`` are imported into an empty database.

    Raises:
        ConfigurationError: the settings or the machine are unfit.
    """
    enter = stack.enter_async_context
    tracing = await enter(start_tracing(settings.tracing))
    services = await enter(open_services(settings, tracing=tracing, workers=workers))
    supervisor = services.supervisor
    # Before listening, so that the first request finds them.
    if samples:
        await _import_samples(services)
    # An upload wakes the embedded worker, which would otherwise poll.
    main = await enter(open_uploads(settings, on_upload=services.upload_arrived.set))
    surface = build_http_server(services, main)
    if surface.access_log is not None:
        stack.callback(surface.access_log.flush)
    # After the last response. What is left to close may hang with the storage.
    stack.callback(end_process_after, CLOSE_S)
    port = await enter(surface.runner.listening())
    stack.enter_context(address_recorded(settings, port))
    await enter(services.queue_metrics.running(supervisor))
    forwarder = surface.forwarder
    # A worker here would give media ids that the media server gives to other images.
    forwards = forwarder is not None and await forwarder.leads_elsewhere()
    if settings.ingest.embedded and has_worker(settings) and not forwards:
        urls = ingest_urls(settings, port)
        queue = local_queue(settings, urls, None if main is None else main.queue, port)
        ingest = await enter(open_ingest(services, urls, queue=queue))
        # The other half of the time is left to responses in progress.
        drain_s = settings.server.drain_s / 2
        await enter(running_worker(ingest, drain_s=drain_s))
    if services.metadata is not None:
        jobs = job_worker(services.metadata, services.storage, supervisor)
        tasks = (BackgroundTask.METADATA_JOBS, BackgroundTask.METADATA_JOBS_PRUNING)
        drain_s = settings.server.drain_s / 2
        await enter(running_worker(jobs, drain_s=drain_s, work=tasks[0], pruning=tasks[1]))
    if main is not None:
        await enter(main.running(settings.base_url(port), services.metrics, supervisor))
    # No client waits for finals: the rest of server.drain_s is left to responses.
    stack.push_async_callback(services.serving.finals_queue.stop)
    # These run first after a signal, before anything is waited for.
    stack.callback(surface.runner.begin_drain, signals.hurried)
    stack.callback(surface.health.drain)
    manager = ServiceManager.of(os.environ)
    pool = services.rendering.pool
    notified = service_notifications(manager, alive=lambda: bool(pool.pids), supervisor=supervisor)
    await enter(notified)
    await _announce(services, port)


async def _import_samples(services: Services) -> None:
    if not await services.storage.repository.ids(limit=1):
        for path in walk([SAMPLES]):
            if path.suffix in (".jpg", ".png"):
                await services.importer.import_file(path, user_id=1, data_type=DataType.PRODUCT)


async def _announce(services: Services, port: int) -> None:
    settings = services.settings
    base = settings.base_url(port)
    _print(f"smartserve {__version__} on {base}")
    # A first try without settings: print URLs that work.
    if not settings.database.url:
        # The server already runs: an unavailable database is not a reason to stop it.
        with suppress(DatabaseUnavailable):
            for media_id in await services.storage.repository.ids(limit=10):
                _print(f"  {image_url(media_id, base=base)}")


def _print(line: str) -> None:
    """Print a line unless nobody reads standard output any more, as after ``| head -1``."""
    try:
        # One write: with PYTHONUNBUFFERED, `print` writes the line end apart, and a line of the log
        # could come between if both go to one file.
        print(f"{line}\n", end="", flush=True)
    except BrokenPipeError:
        # The interpreter would try again at exit.
        sys.stdout = None
