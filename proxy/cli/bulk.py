"""``smartserve bulk``: one task for all images of a library, shared by any number of workers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from proxy.app.bulk import open_task
from proxy.app.storage import open_storage
from proxy.cli import SUMMARIES, app
from proxy.cli.base import (
    CLOSE_S,
    JsonLinesOption,
    command,
    end_process_after,
    print_error,
    print_result,
    print_summary,
    printable,
    progress_bar,
    reason_of,
)
from proxy.domain.bulk import BulkPlan, BulkTask
from proxy.domain.media import MAX_MEDIA_ID
from proxy.library.bulk import BulkWorker
from proxy.runtime.stop_signals import StopSignals, interruptible
from proxy.settings import Settings
from proxy.storage.database.bulk_plans import BulkPlanTable

_MAX_PART, _MAX_RATE = 100_000, 100_000.0
bulk_app = typer.Typer(help=SUMMARIES["bulk"], no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bulk_app, name="bulk")

PlanArgument = Annotated[
    int, typer.Argument(min=1, max=MAX_MEDIA_ID, metavar="PLAN", help="Number of the plan.")
]


class Engine(StrEnum):
    """Where parts are processed."""

    LOCAL = "local"
    DASK = "dask"


@command("start", group=bulk_app)
async def start(
    settings: Settings,
    task: Annotated[BulkTask, typer.Argument(metavar="TASK", help="What to do with each image.")],
    part_size: Annotated[
        int, typer.Option(min=1, max=_MAX_PART, help="Images that a worker leases at a time.")
    ] = 1000,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=_MAX_RATE,
            show_default="unlimited",
            help="Maximum number of images per second, of all workers together.",
        ),
    ] = None,
) -> None:
    """Add a plan for all images that there are now, and print its number.

    Nothing is done until ``bulk work`` runs. Tasks: ``warm`` renders missing finals, ``render``
    deletes all renditions and renders the finals, ``analyse`` and ``extract`` store analyses and
    metadata that are missing or outdated, ``check`` decodes every original and compares it with the
    stored hash.
    """
    async with _table(settings) as table:
        plan = await _found(table, await table.start(task, part_size=part_size, rate=rate))
    print_result(str(plan.id))
    print_summary("bulk start", images=plan.total)


@command("work", group=bulk_app)
async def work(
    settings: Settings,
    plan_id: PlanArgument,
    parts: Annotated[
        int | None,
        typer.Option(min=1, show_default="all", help="Exit after this number of parts."),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Where parts are processed.")] = Engine.LOCAL,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of the scheduler of Dask, as tcp://HOST:PORT.")
    ] = None,
) -> None:
    """Process parts of a plan until it has ended; SIGTERM or Ctrl-C gives the current part back.

    Run it on as many machines as you like. Images that fail are listed by ``bulk status
    --failures``; they do not change the exit code.
    """
    if engine is Engine.DASK:
        if scheduler is None:
            raise typer.BadParameter("is required for Dask", param_hint="--scheduler")
        # Needs the extra `dask`, which no other command imports.
        from proxy.cli.bulk_dask import work_on_dask  # noqa: PLC0415

        async with _table(settings) as table:
            await work_on_dask(table, (await _found(table, plan_id)).id, scheduler)
        return
    signals = StopSignals.listen(partial(end_process_after, 2 * CLOSE_S))
    async with _table(settings) as table:
        plan = await _found(table, plan_id)
    began = time.monotonic()
    async with interruptible(signals.received), open_task(settings, plan.task) as opened:
        table = BulkPlanTable(opened.storage.writer, lease_s=settings.ingest.lease_s)
        worker = BulkWorker(
            table,
            opened.storage.repository,
            opened.process,
            concurrency=opened.concurrency,
            lease_s=settings.ingest.lease_s,
            reason=reason_of,
        )
        try:
            with progress_bar(f"bulk {plan.task}", plan.total) as progress:

                async def show() -> None:
                    now = await table.find(plan_id) or plan
                    bar = progress.task_ids[0]
                    progress.update(bar, completed=now.done + now.failed, total=now.total)

                await worker.run(plan_id, max_parts=parts, on_progress=show)
        finally:
            seconds = time.monotonic() - began
            print_summary("bulk work", seconds=seconds, processed=worker.processed)


@command("status", group=bulk_app)
async def status(
    settings: Settings,
    plan_id: Annotated[
        int | None,
        typer.Argument(
            min=1, max=MAX_MEDIA_ID, metavar="PLAN", show_default="the last 50", help="One plan."
        ),
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="Print the images that failed, with the reason.")
    ] = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Print plans: task, status, images done and failed, workers, rate and estimated end."""
    if failures and plan_id is None:
        raise typer.BadParameter("needs the number of a plan", param_hint="--failures")
    async with _table(settings) as table:
        plans = [await _found(table, plan_id)] if plan_id else await table.recent()
        if not plans:
            print("no plan has been started; see 'smartserve bulk start --help'", file=sys.stderr)
        for plan in plans:
            print_result(_json_of(plan) if as_json else line_of(plan))
        after = 0
        while failures and (page := await table.failures(plans[0].id, after=after)):
            for media_id, reason in page.items():
                row = {"id": media_id, "error": reason}
                print_result(json.dumps(row) if as_json else f"{media_id}\t{printable(reason)}")
            after = max(page)


@command("pause", group=bulk_app)
async def pause(settings: Settings, plan_id: PlanArgument) -> int:
    """Pause a plan: its workers stop within five seconds, give their parts back, and wait.

    Images under way are processed again after `resume`.
    """
    return await _changed(settings, plan_id, BulkPlanTable.pause, "is not running")


@command("resume", group=bulk_app)
async def resume(settings: Settings, plan_id: PlanArgument) -> int:
    """Continue a paused plan."""
    return await _changed(settings, plan_id, BulkPlanTable.resume, "is not paused")


@command("cancel", group=bulk_app)
async def cancel(settings: Settings, plan_id: PlanArgument) -> int:
    """End a plan for good; what is done stays, and its workers exit."""
    return await _changed(settings, plan_id, BulkPlanTable.cancel, "has ended already")


async def _changed(
    settings: Settings,
    plan_id: int,
    change: Callable[[BulkPlanTable, int], Awaitable[bool]],
    refusal: str,
) -> int:
    async with _table(settings) as table:
        await _found(table, plan_id)
        if await change(table, plan_id):
            print_result(line_of(await _found(table, plan_id)))
            return 0
        found = await _found(table, plan_id)
    print_error("failed", f"plan {plan_id} {refusal}: its status is {found.status}")
    return 1


@asynccontextmanager
async def _table(settings: Settings) -> AsyncIterator[BulkPlanTable]:
    async with open_storage(settings) as storage:
        yield BulkPlanTable(storage.writer, lease_s=settings.ingest.lease_s)


def line_of(plan: BulkPlan) -> str:
    """Return a plan as text."""
    share = (plan.done + plan.failed) / plan.total if plan.total else 1.0
    cells = [
        f"{plan.id}\t{plan.task}\t{plan.status}",
        f"{plan.done + plan.failed:,} of {plan.total:,} ({share:.0%}), {plan.failed:,} failed",
        f"{plan.workers} {'worker' if plan.workers == 1 else 'workers'}",
    ]
    if plan.speed is not None:
        cells.append(f"{plan.speed:.1f}/s")
    if (seconds := plan.remaining_s) is not None:
        cells.append(f"{timedelta(seconds=round(seconds))} left")
    return "\t".join(cells)


def _json_of(plan: BulkPlan) -> str:
    return json.dumps({**asdict(plan), "remaining_s": plan.remaining_s})


async def _found(table: BulkPlanTable, plan_id: int) -> BulkPlan:
    plan = await table.find(plan_id)
    if plan is None:
        raise typer.BadParameter(f"there is no plan {plan_id}; 'bulk status' lists them")
    return plan
