"""Commands on uploads: ``ingest`` takes them in, ``status`` tells how they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from proxy.app.ingest import IngestUrls, has_worker, open_ingest, open_main_api
from proxy.app.services import open_rooms
from proxy.app.storage import open_storage
from proxy.app.tracing import open_tracing
from proxy.app.uploads import open_main_side
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    app,
    read_settings,
    run,
)
from proxy.domain.errors import ConfigurationError, IngestError
from proxy.domain.ingest_item import QueueReport, StepState
from proxy.ingest.worker_loop import running_worker
from proxy.settings import Settings
from proxy.storage.database.ingest_report import queue_report
from proxy.web.server.lifecycle import interruptible, stop_signals

Uploads = Mapping[str, int | str]
"""How many uploads the main API has, by status; or why that is not known."""


def addresses(settings: Settings, port: int | None = None) -> IngestUrls:
    """Where the worker asks, and what it says that media are under; ``port`` that was taken."""
    main_api = settings.ingest.main_api_url or settings.local_url(port)
    backend = settings.ingest.media_backend_url or settings.base_url(port)
    return IngestUrls(main_api.rstrip("/"), backend.rstrip("/"))


@app.command()
def ingest(
    once: Annotated[
        bool, typer.Option("--once", help="End when nothing is due; exit 1 if something failed.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Turn uploads into media, until SIGTERM or Ctrl-C; as many of these as you like, anywhere.

    Asks the main API what is pending, downloads, analyses, renders, and tells it.
    """
    settings = read_settings(config, data_dir)
    if not has_worker(settings):
        raise ConfigurationError(["ingest.main_api_url: set it, or main.enabled = true"])
    failed = run(_ingest(settings, once=once))
    raise SystemExit(1 if failed else 0)


async def _ingest(settings: Settings, *, once: bool) -> int:
    stopped = stop_signals()
    async with AsyncExitStack() as stack:
        async with interruptible(stopped):
            tracing = await stack.enter_async_context(open_tracing(settings.tracing))
            rooms = await stack.enter_async_context(open_rooms(settings, tracing=tracing))
            worker = await stack.enter_async_context(open_ingest(rooms, addresses(settings)))
            if once:
                return await worker.run_once()
            drain_s = settings.server.drain_s
            working = running_worker(worker, drain_s=drain_s, supervisor=rooms.supervisor)
            await stack.enter_async_context(working)
        await stopped.wait()
    return 0


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Tell how uploads stand: the queue, its steps, what failed and why, the workers' leases."""
    settings = read_settings(config, data_dir)
    report, uploads = run(_status(settings))
    if as_json:
        print(json.dumps({**asdict(report), "main_api": uploads}))
    else:
        _print(report, uploads)


async def _status(settings: Settings) -> tuple[QueueReport, Uploads]:
    async with open_storage(settings) as storage:
        return await queue_report(storage.writer), await _uploads(settings)


async def _uploads(settings: Settings) -> Uploads:
    """Of a main side of our own from its database: whether it serves now does not matter."""
    if settings.ingest.main_api_url:
        async with open_main_api(settings, addresses(settings).main_api) as api:
            try:
                return {"pending": len(await api.pending())}
            except IngestError as error:
                return {"pending": error.detail}
    async with open_main_side(settings) as main:
        if main is None:
            return {"pending": "none is set"}
        return {
            str(state): count
            for state, count in (await main.queue.database.count_by_status()).items()
        }


def _print(report: QueueReport, uploads: Uploads) -> None:
    console = Console()
    console.print(_overview(report, uploads))
    console.print(_steps(report))
    if report.failures:
        console.print(_failures(report))


def _overview(report: QueueReport, uploads: Uploads) -> Table:
    table = Table(title="Uploads", title_justify="left", show_header=False)
    for name, value in (
        *((f"at the main API: {state}", count) for state, count in uploads.items()),
        *((f"at the workers: {state}", count) for state, count in report.states.items()),
        ("of these failed for good", report.failed_for_good),
        ("open for more than an hour", report.stuck),
        ("minutes that the oldest of them is there", round(report.oldest_s / 60)),
        ("done within the hour", report.finished_last_hour),
        ("leases held", report.held),
        ("leases run out", report.run_out),
        ("taken over", report.takeovers),
    ):
        table.add_row(name, str(value))
    return table


def _steps(report: QueueReport) -> Table:
    table = Table(title="Steps: not done, or done within the hour", title_justify="left")
    table.add_column("step")
    for name in (*StepState, "attempts"):
        table.add_column(name, justify="right")
    for step, counts in report.steps.items():
        figures = [*(counts[state] for state in StepState), report.attempts[step]]
        table.add_row(step, *map(str, figures))
    return table


def _failures(report: QueueReport) -> Table:
    table = Table(title="Failed lately", title_justify="left")
    for name in ("upload", "medium", "again", "reason"):
        table.add_column(name)
    for one in report.failures:
        again = "no" if one.final else "yes"
        table.add_row(str(one.main_api_id), str(one.media_id or ""), again, one.reason)
    return table
