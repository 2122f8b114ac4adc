"""``smartserve serve``: run the server until a signal stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from proxy.app.startup_checks import check_start
from proxy.app.workers import workers_starting
from proxy.cli import app, import_frozen
from proxy.cli.base import (
    CLOSE_S,
    ConfigOption,
    DataDirOption,
    end_process_after,
    read_settings,
    run,
)
from proxy.domain.errors import ConfigurationError
from proxy.runtime.stop_signals import StopSignals, interruptible
from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import Settings
from proxy.telemetry.logging import OUTPUT

if TYPE_CHECKING:
    from proxy.app.server_process import ServerProcess

log = structlog.get_logger(__name__)


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[
        str | None, typer.Option(show_default="server.host", help="Address to listen on.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(show_default="server.port", help="Port to listen on; 0 selects a free one."),
    ] = None,
    data_dir: DataDirOption = None,
    samples: Annotated[
        bool, typer.Option(help="Import the bundled sample images if the database is empty.")
    ] = False,
) -> None:
    """Serve images over HTTP until SIGTERM or Ctrl-C."""
    read = partial(read_settings, config, data_dir, host=host, port=port)
    settings = read()
    check_start(settings)
    several = settings.process_count > 1
    # If nobody reads standard error, a write to it would block the event loop.
    with OUTPUT.in_background(shared=several):
        if several:
            parent = import_frozen("proxy.cli.run_parent")
            raise SystemExit(run(parent.run_parent(settings, read, samples=samples)))
        run(serve_until_stopped(settings, samples=samples))


async def serve_until_stopped(
    settings: Settings,
    *,
    samples: bool = False,
    start: Callable[[], Awaitable[ServerProcess]] | None = None,
) -> None:
    """Serve until a signal; ``start`` connects a process that has a parent to it."""
    server = settings.server
    stop_s = server.lame_duck_s + server.drain_s + CLOSE_S
    signals = StopSignals.listen(partial(end_process_after, stop_s))
    async with AsyncExitStack() as stack:
        process = None if start is None else await start()
        elsewhere: frozenset[BackgroundTask] = frozenset()
        if process is not None:
            elsewhere = process.elsewhere
        # A signal during the start cancels it; the stack then stops what has started.
        async with interruptible(signals.received):
            try:
                workers = await stack.enter_async_context(
                    workers_starting(settings, elsewhere=elsewhere)
                )
                # Both take about as long. In a thread: the loop starts the worker meanwhile.
                module = await asyncio.to_thread(import_frozen, "proxy.cli.run_server")
                await module.start_server(
                    stack, workers, settings, signals, samples=samples, process=process
                )
            except (OSError, ImportError) as error:
                # For example a process that may open no more files, in whichever part it is.
                raise ConfigurationError([f"the server cannot start: {error}"]) from error
        await signals.received.wait()
        log.info("stopping")
