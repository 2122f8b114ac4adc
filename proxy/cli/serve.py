"""``smartserve serve``: run the server until a signal stops it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from proxy.app.startup_checks import check_start
from proxy.app.workers import workers_starting
from proxy.cli import app, import_frozen
from proxy.cli.base import ConfigOption, DataDirOption, read_settings, run
from proxy.settings import Settings
from proxy.telemetry.logging import OUTPUT


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
    settings = read_settings(config, data_dir, host=host, port=port)
    check_start(settings)
    # If nobody reads standard error, a write to it would block the event loop.
    with OUTPUT.in_background():
        run(_serve(settings, samples=samples))


async def _serve(settings: Settings, *, samples: bool) -> None:
    async with workers_starting(settings) as workers:
        # Both take about as long. In a thread: the loop starts the worker meanwhile.
        module = await asyncio.to_thread(import_frozen, "proxy.cli.run_server")
        await module.run_server(settings, workers, samples=samples)
