"""``smartserve serve``: serve until told to stop."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Annotated

import structlog
import typer

from proxy import __version__
from proxy.app.ingest import has_worker, open_ingest
from proxy.app.services import Services, open_rooms
from proxy.app.startup_checks import check_start
from proxy.app.tracing import open_tracing
from proxy.app.uploads import UploadServices, open_main_side
from proxy.app.web import build_surface
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    app,
    read_settings,
    run,
)
from proxy.cli.ingest import addresses
from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import DataType
from proxy.domain.urls import image_url
from proxy.ingest.worker_loop import running_worker
from proxy.library.import_files import walk
from proxy.runtime.systemd_notify import ServiceManager, supervised
from proxy.settings import Settings
from proxy.web.server.lifecycle import interruptible, listening, stop_signals

log = structlog.get_logger(__name__)

SAMPLES = Path(__file__).parents[1] / "samples"
"""Pictures to try it with; their origin stands beside them."""


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: DataDirOption = None,
    samples: Annotated[
        bool, typer.Option(help="Import the bundled samples first, if the database is empty.")
    ] = False,
) -> None:
    """Serve pictures over HTTP until SIGTERM or Ctrl-C."""
    settings = read_settings(config, data_dir, host=host, port=port)
    check_start(settings)
    run(_serve(settings, samples=samples))


async def _serve(settings: Settings, *, samples: bool) -> None:
    stopped = stop_signals()
    async with AsyncExitStack() as stack:
        async with interruptible(stopped):
            await _start(stack, settings, samples=samples)
        await stopped.wait()
        log.info("stopping")


async def _start(stack: AsyncExitStack, settings: Settings, *, samples: bool) -> None:
    """Open all, listen, and say so; the stack ends it in the reverse order."""
    tracing = await stack.enter_async_context(open_tracing(settings.tracing))
    rooms = await stack.enter_async_context(open_rooms(settings, tracing=tracing))
    if samples:
        await _import_samples(rooms)
    main = await stack.enter_async_context(open_main_side(settings))
    if main is not None:
        main.on_upload.append(rooms.woken.set)
    surface = build_surface(rooms, main)
    if surface.access_log is not None:
        stack.callback(surface.access_log.flush)
    port = await stack.enter_async_context(
        listening(surface.runner, surface.health, settings.server)
    )
    await _start_ingest(stack, rooms, main, port)
    if main is not None:
        await stack.enter_async_context(
            main.at_work(settings.base_url(port), rooms.metrics, rooms.supervisor)
        )
    # Nobody waits for finals: what is left of the time is for answers.
    stack.push_async_callback(rooms.upgrader.stop)
    stack.callback(surface.health.drain)
    manager = ServiceManager.of(os.environ)
    notified = supervised(manager, alive=lambda: bool(rooms.pool.pids), supervisor=rooms.supervisor)
    await stack.enter_async_context(notified)
    await _announce(rooms, port)


async def _start_ingest(
    stack: AsyncExitStack, rooms: Services, main: UploadServices | None, port: int
) -> None:
    """Start the embedded worker and the metrics of the queue."""
    await stack.enter_async_context(rooms.watch.running(rooms.supervisor))
    settings = rooms.settings
    if settings.ingest.embedded and has_worker(settings):
        urls = addresses(settings, port)
        # If the main API is this server, the worker uses its queue directly and not HTTP.
        own = urls.main_api in (settings.local_url(port), settings.base_url(port))
        queue = main.queue if main is not None and own else None
        ingest = await stack.enter_async_context(open_ingest(rooms, urls, local_queue=queue))
        # Half of the time to stop: the answers under way have theirs after it.
        drain_s = settings.server.drain_s / 2
        await stack.enter_async_context(
            running_worker(ingest, drain_s=drain_s, supervisor=rooms.supervisor)
        )


async def _import_samples(rooms: Services) -> None:
    if not await rooms.storage.catalogue.ids(limit=1):
        for path in walk([SAMPLES]):
            if path.suffix in (".jpg", ".png"):
                await rooms.importer.import_file(path, user_id=1, data_type=DataType.PRODUCT)


async def _announce(rooms: Services, port: int) -> None:
    settings = rooms.settings
    base = settings.base_url(port)
    print(f"smartserve {__version__} on {base}", flush=True)
    if not settings.database.url:
        # It serves already; a database that cannot be asked now is no reason to end.
        with suppress(DatabaseUnavailable):
            for media_id in await rooms.storage.catalogue.ids(limit=10):
                print(f"  {image_url(media_id, base=base)}", flush=True)
