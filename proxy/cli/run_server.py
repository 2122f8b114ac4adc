"""Runs the server of ``smartserve serve``.

`proxy.cli.serve` imports this module, and with it most of the program, while the workers start.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import structlog

from proxy import __version__
from proxy.app.ingest import has_worker, local_queue, open_ingest
from proxy.app.metadata import job_worker
from proxy.app.server_process import ServerProcess
from proxy.app.services import Services, open_services
from proxy.app.startup_checks import start_tracing
from proxy.app.uploads import open_uploads
from proxy.app.web import HttpServer, build_http_server
from proxy.app.workers import StartingWorkers
from proxy.cli.base import CLOSE_S, address_recorded, end_process_after, print_line
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
    process: ServerProcess | None = None,
) -> None:
    """Start all parts and print the address; ``stack`` stops them in the reverse order.

    ``samples`` are imported into an empty database. A ``process`` with a parent serves on its
    sockets, and reports to it.

    Raises:
        ConfigurationError: the settings or the machine are unfit.
    """
    enter = stack.enter_async_context
    if process is not None:
        stack.push_async_callback(process.close)
    tracing = await enter(start_tracing(settings.tracing))
    # The table of purges reaches the other processes within two seconds; this, at once.
    on_change = None if process is None else process.announce_change
    services = await enter(
        open_services(settings, tracing=tracing, workers=workers, on_change=on_change)
    )
    supervisor = services.supervisor
    # Before listening, so that the first request finds them.
    if samples or (process is not None and process.samples):
        await _import_samples(services)
    # An upload wakes the embedded worker, which would otherwise poll.
    main = await enter(open_uploads(settings, on_upload=services.upload_arrived.set))
    exposition = None if process is None else process.exposition
    surface = build_http_server(services, main, exposition=exposition)
    if surface.access_log is not None:
        stack.callback(surface.access_log.flush)
    # After the last response. What is left to close may hang with the storage.
    stack.callback(end_process_after, CLOSE_S)
    if process is None:
        port = await enter(surface.runner.listening())
        stack.enter_context(address_recorded(settings, port))
    else:
        port = await enter(surface.runner.listening(process.sockets))
        _join(process, services, signals)
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
    # This runs first after a signal, before anything is waited for.
    stack.callback(_begin_to_stop, surface, signals, process)
    manager = ServiceManager.of(os.environ) if process is None else process.manager
    pool = services.rendering.pool
    notified = service_notifications(manager, alive=lambda: bool(pool.pids), supervisor=supervisor)
    await enter(notified)
    lines = await _announcement(services, port)
    if process is None:
        for line in lines:
            print_line(line)
    else:
        process.ready(services.metrics, lines)


def _begin_to_stop(
    surface: HttpServer, signals: StopSignals, process: ServerProcess | None
) -> None:
    if process is not None and process.replaced:
        # It stays ready: its clients move to its successor without noticing.
        surface.runner.begin_passing_on(signals.hurried)
        return
    surface.health.drain()
    surface.runner.begin_drain(signals.hurried)


def _join(process: ServerProcess, services: Services, signals: StopSignals) -> None:
    """Handle the messages of the parent and, through it, of the other processes."""
    drain_s = services.settings.server.drain_s

    async def replaced(_: object) -> None:
        process.replaced = True
        # Connections are passed on for `drain_s`; what remains is drained as long again.
        end_process_after(2 * drain_s + CLOSE_S)
        signals.received.set()

    async def changed(_: object) -> None:
        services.storage.purge_feed.wake()

    process.on("replaced", replaced)
    process.on("purged", changed)
    if services.metadata is not None:
        # The WebSocket of a session may be open in another process than its upload.
        services.metadata.progress.share(partial(process.notify_others, "progress"))
        process.on("progress", services.metadata.progress.receive)
    process.start()


async def _import_samples(services: Services) -> None:
    if not await services.storage.repository.ids(limit=1):
        for path in walk([SAMPLES]):
            if path.suffix in (".jpg", ".png"):
                await services.importer.import_file(path, user_id=1, data_type=DataType.PRODUCT)


async def _announcement(services: Services, port: int) -> list[str]:
    settings = services.settings
    base = settings.base_url(port)
    lines = [f"smartserve {__version__} on {base}"]
    # A first try without settings: print URLs that work.
    if not settings.database.url:
        # The server already runs: an unavailable database is not a reason to stop it.
        with suppress(DatabaseUnavailable):
            ids = await services.storage.repository.ids(limit=10)
            lines += [f"  {image_url(media_id, base=base)}" for media_id in ids]
    return lines
