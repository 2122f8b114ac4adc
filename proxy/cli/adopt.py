"""``smartserve adopt``: take over the storage tree of another system."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.app.adoption import TreePlace, open_adopter, open_inventory, path_below, place_of
from proxy.app.services import open_services
from proxy.app.storage import StorageServices, open_storage
from proxy.cli.base import (
    JsonLinesOption,
    command,
    print_error,
    print_result,
    print_summary,
    printable,
    process_each,
    progress_bar,
    reason_of,
)
from proxy.domain.errors import SmartserveError
from proxy.domain.media import MAX_MEDIA_ID, DataType, MediaFacts
from proxy.library.adoption.adopt import AdoptedMedia, Outcome
from proxy.library.adoption.file_names import AdoptionOwner
from proxy.library.adoption.grouping import FileGroup, groups
from proxy.library.adoption.inventory import SkippedFile, enter_files, enter_rows
from proxy.settings import Settings


@command()
async def adopt(
    settings: Settings,
    directory: Annotated[Path, typer.Argument(help="A storage tree, or a folder in one.")],
    user_id: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_MEDIA_ID, help="User who owns images whose path names no user."
        ),
    ] = 1,
    type_: Annotated[
        DataType, typer.Option("--type", help="Purpose of images whose path names none.")
    ] = DataType.PRODUCT,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print which files form one image; change nothing.")
    ] = False,
    reserve: Annotated[
        bool,
        typer.Option(help="Render a fallback in each named size, for requests under overload."),
    ] = True,
    as_json: JsonLinesOption = False,
) -> int:
    """Take over the storage tree of another system: originals and the sizes made from them.

    Files below storage.root stay in place, others are copied there. Recognises rows that name the
    files, and equal content, so the command may be repeated. Prints the reason for each file that
    is skipped, and exits with 1 if there is one.
    """
    report = _AdoptionReport(as_json=as_json)
    # In a thread: on a file system that does not respond, Ctrl-C would have no effect.
    place = await asyncio.to_thread(place_of, settings, directory)
    if dry_run:
        await _plan(settings, place, report)
    else:
        await _adopt(settings, place, AdoptionOwner(user_id, type_), report, reserve=reserve)
    adopted = {"planned" if dry_run else "adopted": report.adopted}
    print_summary("adopt", **adopted, known=report.known, skipped=report.skipped)
    return report.skipped


async def _adopt(
    settings: Settings,
    place: TreePlace,
    owner: AdoptionOwner,
    report: _AdoptionReport,
    *,
    reserve: bool,
) -> None:
    async with (
        open_services(settings) as services,
        open_adopter(services, place, owner) as adopter,
        _scan(settings, place, services.storage, report) as (stems, pages),
    ):

        async def adopt_group(group: FileGroup) -> bool:
            # A file that is not a size of its original is an image of its own.
            for outcome in await adopter.adopt(group):
                if reserve and isinstance(outcome, AdoptedMedia):
                    await services.fallback_renderer.fill(outcome.media_id)
                # Flushed: an interrupted run has reported what it stored.
                report.add(outcome)
            return True

        def skip(group: FileGroup, error: SmartserveError) -> None:
            # Of one group, or of the database for a while: the rest is adopted.
            for one in group.files:
                report.add(SkippedFile(one.path, reason_of(error)))

        concurrency = settings.workers.processes
        with progress_bar("adopting", stems) as progress:
            async for page in pages:
                await process_each(
                    page, adopt_group, progress=progress, concurrency=concurrency, on_error=skip
                )


async def _plan(settings: Settings, place: TreePlace, report: _AdoptionReport) -> None:
    async with (
        open_storage(settings) as storage,
        _scan(settings, place, storage, report) as (_, pages),
    ):
        async for page in pages:
            for group in page:
                report.add_plan(group)


@asynccontextmanager
async def _scan(
    settings: Settings, place: TreePlace, storage: StorageServices, report: _AdoptionReport
) -> AsyncIterator[tuple[int, AsyncIterator[Sequence[FileGroup]]]]:
    """Scan files and rows; yield the number of file name stems, and pages of their groups."""
    with open_inventory(settings, place) as inventory:
        async with aclosing(enter_files(inventory, place.root, place.start)) as skipped:
            async for one in skipped:
                report.add(one)
        # Rows name files below the storage root only.
        if place.in_place:
            await enter_rows(inventory, storage.repository, path_below(settings, place))
        # Files that form one image have the same stem, which measures the progress.
        stems = inventory.finish()
        async with aclosing(groups(inventory)) as pages:
            yield stems, pages


class _AdoptionReport:
    """Prints one line for each image and each skipped file, and counts the latter."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.adopted = self.known = self.skipped = 0

    def add(self, outcome: Outcome) -> None:
        """Print an outcome; skipped files go to standard error unless the format is JSON."""
        if isinstance(outcome, SkippedFile):
            self.skipped += 1
        else:
            self.known += outcome.known
            self.adopted += not outcome.known
        if self._as_json:
            print_result(json.dumps(_fields(outcome)))
        elif isinstance(outcome, SkippedFile):
            print_error("skipped", f"{outcome.path}: {outcome.reason}")
        else:
            known = "  (known)" if outcome.known else ""
            path = printable(outcome.path)
            print_result(f"{outcome.media_id}\t{path}\t{_summary(outcome)}{known}")

    def add_plan(self, group: FileGroup) -> None:
        """Print the files that would become one image, according to names and rows."""
        self.adopted += 1
        # Without an original, the first of the sizes stands for the group.
        first = (group.masters or group.files)[0]
        others = [one.path for one in group.files if one is not first]
        if self._as_json:
            ids = sorted(group.media_ids)
            print_result(json.dumps({"ids": ids, "path": first.path, "others": others}))
        else:
            names = ",".join(map(str, sorted(group.media_ids))) or "new"
            print_result("\t".join([names, *map(printable, (first.path, *others))]))


def _fields(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, SkippedFile):
        return {"path": outcome.path, "error": outcome.reason}
    # Programs read this format: fallbacks keep their former name "stand_ins".
    return {
        "id": outcome.media_id,
        "path": outcome.path,
        "known": outcome.known,
        "source": None if outcome.source is None else _size(outcome.source),
        "stand_ins": [{"path": one.source_path, "size": _size(one)} for one in outcome.fallbacks],
    }


def _summary(outcome: AdoptedMedia) -> str:
    source = "no source" if outcome.source is None else _size(outcome.source)
    sizes = ", ".join(sorted({_size(one) for one in outcome.fallbacks}))
    return f"{source}; fallbacks: {sizes}" if sizes else source


def _size(facts: MediaFacts) -> str:
    return f"{facts.width}x{facts.height} {facts.source_type}"
