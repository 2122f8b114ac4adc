"""``smartserve ingest`` and ``status``: process uploads, and show the queue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from proxy.app.ingest import IngestUrls, has_worker, open_ingest, open_main_api
from proxy.app.services import open_services
from proxy.app.startup_checks import start_tracing
from proxy.app.storage import open_storage
from proxy.app.uploads import open_uploads
from proxy.cli.base import CLOSE_S, JsonOption, command, end_process_after, print_summary, printable
from proxy.domain.errors import ConfigurationError, IngestError
from proxy.domain.upload import QueueReport, StepState
from proxy.ingest.main_api import count_pending
from proxy.ingest.worker_loop import running_worker
from proxy.runtime.stop_signals import StopSignals, interruptible
from proxy.settings import Settings
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.ingest_report import queue_report
from proxy.telemetry.logging import OUTPUT

if TYPE_CHECKING:
    from rich.table import Table

log = structlog.get_logger(__name__)

Uploads = Mapping[str, int | str]
"""Uploads at the main API by status; a text says why the number is unknown."""


def ingest_urls(settings: Settings, port: int | None = None) -> IngestUrls:
    """Return the URLs of the main API and of images; ``port`` is the one that ``serve`` uses."""
    # By default this machine, past the reverse proxy, which hides the routes of the main API.
    main_api = settings.ingest.main_api_url or settings.local_url(port)
    backend = settings.ingest.media_backend_url or settings.base_url(port)
    if fault := settings.unreachable_fault(backend):
        # The callback is sent without it: a main API may store it in a profile for ever.
        log.warning("no_permanent_url", reason=fault)
        backend = ""
    return IngestUrls(main_api.rstrip("/"), backend.rstrip("/"))


@command()
async def ingest(
    settings: Settings,
    once: Annotated[
        bool, typer.Option("--once", help="Exit when no upload is due, with 1 if one failed.")
    ] = False,
) -> int:
    """Process uploads until SIGTERM or Ctrl-C. Any number of workers may run, on any machines.

    Requests pending uploads from the main API, downloads, analyses and renders them, and reports
    the result to the main API.
    """
    # Without uploads there is nothing to wait for.
    if not has_worker(settings):
        raise ConfigurationError(["ingest.main_api_url is not set: set it, or main.enabled = true"])
    drain_s = settings.server.drain_s
    signals = StopSignals.listen(partial(end_process_after, drain_s + CLOSE_S))
    async with AsyncExitStack() as stack:
        # If nobody reads standard error, a write to it would block the event loop.
        stack.enter_context(OUTPUT.in_background())
        enter = stack.enter_async_context
        async with interruptible(signals.received):
            tracing = await enter(start_tracing(settings.tracing))
            services = await enter(open_services(settings, tracing=tracing))
            worker = await enter(open_ingest(services, ingest_urls(settings)))
            # run_once returns when no upload is due.
            if once:
                failed = await worker.run_once()
                print_summary("ingest", processed=worker.ran, failed=failed)
                return failed
            await enter(running_worker(worker, drain_s=drain_s))
        await signals.received.wait()
    return 0


@command()
async def status(settings: Settings, as_json: JsonOption = False) -> None:
    """Print the state of uploads: the queue, its steps, failures with reasons, and leases."""
    async with open_storage(settings) as storage:
        report, uploads = await queue_report(storage.writer), await _uploads(settings)
    if as_json:
        print(json.dumps({**asdict(report), "main_api": uploads}))
    else:
        _print(report, uploads)


@command("retry-uploads")
async def retry_uploads(settings: Settings) -> None:
    """Process the kept uploads again: those that failed although their file was not proved bad.

    ``status`` prints their reasons. Remove the cause first. A running worker processes them.
    """
    async with open_storage(settings) as storage:
        count = await IngestQueue(storage.writer).retry_kept()
    print(f"{count} uploads will be processed again")


async def _uploads(settings: Settings) -> Uploads:
    """Count the uploads at the main API; this server's own is read from its database."""
    # The main API of another server.
    if settings.ingest.main_api_url:
        # Only the pending ones can be listed over HTTP.
        async with open_main_api(settings, ingest_urls(settings).main_api) as api:
            try:
                return {"pending": await count_pending(api)}
            except IngestError as error:
                return {"pending": error.detail}
    # Read from the database, so that it works while the server is stopped.
    async with open_uploads(settings) as main:
        if main is None:
            return {"pending": "no main API is set"}
        counts = await main.queue.database.count_by_status()
        return {str(state): count for state, count in counts.items()}


def _print(report: QueueReport, uploads: Uploads) -> None:
    # Imported here: `serve` uses this module, and rich takes 50 ms to import.
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    console.print(_table("Uploads", (), _overview(report, uploads).items()))
    title = "Steps that are unfinished, or finished in the last hour"
    steps = (
        (step, *(counts[state] for state in StepState), report.attempts[step])
        for step, counts in report.steps.items()
    )
    console.print(_table(title, ("step", *StepState, "attempts"), steps))
    failures = [
        (one.main_api_id, one.media_id or "", "no" if one.final else "yes", one.reason)
        for one in report.failures
    ]
    if failures:
        columns = "upload", "image", "retried", "reason"
        console.print(_table("Recent failures", columns, failures))


def _overview(report: QueueReport, uploads: Uploads) -> Mapping[str, object]:
    return {
        # Two queues: uploads that no worker has claimed, and those that one has.
        **{f"at the main API: {state}": count for state, count in uploads.items()},
        **{f"at the workers: {state}": count for state, count in report.states.items()},
        "of these failed permanently": report.failed_for_good,
        "unfinished for more than an hour": report.stuck,
        "age of the oldest in minutes": round(report.oldest_s / 60),
        "finished in the last hour": report.finished_last_hour,
        "leases held": report.held,
        "leases expired": report.run_out,
        "leases taken over by another worker": report.takeovers,
    }


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    from rich.table import Table  # noqa: PLC0415 - see `_print`
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, title=title, title_justify="left", show_header=bool(columns))
    for row in rows:
        # Text: reasons may contain names of files, which rich must not read as markup.
        table.add_row(*(Text(printable(str(value))) for value in row))
    return table
