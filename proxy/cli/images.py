"""``smartserve import``, ``warm``, ``analyse`` and ``near-duplicates``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from proxy.app.ingest import open_analyst
from proxy.app.services import Services, open_services
from proxy.cli.base import (
    IdsArgument,
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
from proxy.domain.errors import MediaNotFound, SmartserveError
from proxy.domain.media import MAX_MEDIA_ID, DataType
from proxy.domain.urls import image_url
from proxy.library.import_files import ImportedFile, RejectedFile, walk
from proxy.serving.near_duplicates import NearDuplicateSearch
from proxy.settings import Settings
from proxy.storage.database.embeddings import MAX_SIMILAR


@command("import")
async def import_(
    settings: Settings,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH|URL...",
            help="Files, folders to search recursively, and addresses of images (see \\[http] and"
            " \\[s3]).",
        ),
    ] = None,
    urls: Annotated[
        Path | None,
        typer.Option("--urls", help="File with one address per line; - is standard input."),
    ] = None,
    user_id: Annotated[
        int, typer.Option(min=0, max=MAX_MEDIA_ID, help="User who owns the images.")
    ] = 1,
    type_: Annotated[
        DataType, typer.Option("--type", help="Purpose of the images.")
    ] = DataType.PRODUCT,
    as_json: JsonLinesOption = False,
) -> int:
    """Add images to the database and the storage, also those of web servers and buckets.

    An object of a bucket (s3://BUCKET/KEY) stays there; everything else is copied. Decodes each
    image completely. A file whose content is already stored is not added again. Prints the reason
    for each file that is skipped, and exits with 1 if there is one.
    """
    known: list[bool] = []
    # In a thread: on a file system that does not respond, Ctrl-C would have no effect.
    files = await asyncio.to_thread(_files, paths or [], urls)
    async with open_services(settings) as services:
        base = settings.base_url()

        async def import_one(path: Path | str) -> bool:
            importer = services.importer
            if isinstance(path, Path):
                outcome = await importer.import_file(path, user_id=user_id, data_type=type_)
            else:
                outcome = await importer.import_url(path, user_id=user_id, data_type=type_)
            _report_import(outcome, base, as_json=as_json)
            # A file that is stored already is no failure.
            imported = isinstance(outcome, ImportedFile)
            known.append(isinstance(outcome, ImportedFile) and outcome.known)
            return imported

        def reject(path: Path | str, error: SmartserveError) -> None:
            # Of the database or the storage: the next file may be stored.
            _report_import(RejectedFile(path, reason_of(error)), base, as_json=as_json)

        # Twice as many as workers, unless the queue is too short: the one half is decoded while
        # the other half is stored.
        workers = settings.workers
        concurrency = workers.processes + min(workers.processes, workers.max_queue)
        began = time.perf_counter()
        with progress_bar("importing", len(files)) as progress:
            skipped = await process_each(
                files, import_one, progress=progress, concurrency=concurrency, on_error=reject
            )
    added = len(files) - sum(known) - skipped
    seconds = time.perf_counter() - began
    print_summary("import", seconds=seconds, imported=added, known=sum(known), skipped=skipped)
    return skipped


def _files(paths: list[str], urls: Path | None) -> list[Path | str]:
    """Return the files below the paths, and the addresses, in this order."""
    addresses = [path for path in paths if "://" in path]
    found: list[Path | str] = [*walk(Path(path) for path in paths if "://" not in path), *addresses]
    if urls is not None:
        try:
            text = sys.stdin.read() if str(urls) == "-" else urls.read_text()
        except (OSError, UnicodeDecodeError) as error:
            fault = printable(f"{urls}: {error}")
            raise typer.BadParameter(fault, param_hint="--urls") from error
        lines = map(str.strip, text.splitlines())
        found += (line for line in lines if line and not line.startswith("#"))
    if not paths and urls is None:
        raise typer.BadParameter("name a file, a folder or an address, or use --urls")
    return found


def _report_import(outcome: ImportedFile | RejectedFile, base: str, *, as_json: bool) -> None:
    path = str(outcome.path)
    # Standard output has only images, unless the format is JSON.
    if isinstance(outcome, RejectedFile):
        if as_json:
            print_result(json.dumps({"path": path, "error": outcome.reason}))
        else:
            print_error("skipped", f"{path}: {outcome.reason}")
        return
    url = image_url(outcome.media_id, base=base)
    if as_json:
        fields = {"path": path, "id": outcome.media_id, "url": url, "known": outcome.known}
        print_result(json.dumps(fields))
    else:
        print_result(
            f"{outcome.media_id}\t{url}\t{printable(path)}{'  (known)' if outcome.known else ''}"
        )


@command()
async def warm(settings: Settings, ids: IdsArgument = None) -> int:
    """Render the finals of all named sizes in all formats that browsers accept.

    Skips renditions that exist. Exits with 1 if an image cannot be rendered.
    """
    async with open_services(settings) as services:

        async def warm_one(media_id: int) -> str:
            warmed = await services.serving.warmer.warm(media_id)
            return f"{media_id}\t{warmed.rendered} rendered, {warmed.present} present"

        failures = await _print_each(services, ids, "warming", warm_one)
        await services.serving.renderer.drain()
    return failures


@command()
async def analyse(
    settings: Settings,
    ids: IdsArgument = None,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Store the analyses of images that have none, or one of an earlier version.",
        ),
    ] = False,
) -> int:
    """Print colors, quality, mood and text of images, one JSON object per line.

    A value that needs a model is null, with the reason, unless [vision] has a key for a provider.
    Exits with 1 if an image cannot be analysed.
    """
    async with open_services(settings) as services, open_analyst(services) as analyst:
        analyses = services.storage.analyses

        async def analyse_one(media_id: int) -> str:
            # Analysis needs the row, which names the file.
            media = await services.storage.database.find(media_id)
            if media is None:
                raise MediaNotFound("there is no image with this id")
            stored = await analyses.find(media_id) if store else None
            if stored is not None and not stored.outdated:
                # Also the analysis of another program, which may know more.
                return json.dumps({"id": media_id, **stored.public()})
            facts = await services.serving.facts.facts(media)
            analysis = await analyst.analyse(media, facts, stored=stored)
            if store:
                await services.storage.writer.store_analysis(media_id, analysis)
            return json.dumps({"id": media_id, **analysis.public()})

        return await _print_each(services, ids, "analysing", analyse_one)


@command()
async def similar(
    settings: Settings,
    media_id: Annotated[
        int, typer.Argument(min=1, max=MAX_MEDIA_ID, metavar="ID", help="Id of an image.")
    ],
    limit: Annotated[int, typer.Option(min=1, max=MAX_SIMILAR, help="Maximum number.")] = 20,
) -> int:
    """Print the ids of similar images and their similarity, at most 1, by their embeddings.

    Exits with 1 if the image has no embedding: [vision.embedding] must have been configured when it
    was uploaded.
    """
    async with open_services(settings) as services:
        found = await services.storage.embeddings.similar(media_id, limit=limit)
    if found is None:
        print_error("failed", f"{media_id}: the image has no embedding")
        return 1
    for one, value in found.items():
        print_result(f"{one}\t{value:.4f}")
    return 0


@command("near-duplicates")
async def near_duplicates(
    settings: Settings,
    ids: Annotated[
        list[int], typer.Argument(min=1, max=MAX_MEDIA_ID, metavar="ID...", help="Media ids.")
    ],
) -> int:
    """Print images that look like the given ones, one JSON object per line.

    Also finds mirrored, rotated, smaller and compressed copies. Compares the stored analyses of the
    100,000 newest images; "skipped" counts images without a current one, which analyse --store
    adds. Exits with 1 if an image cannot be analysed.
    """
    async with open_services(settings) as services:
        search = NearDuplicateSearch(services.storage.analyses, services.serving.image_info)

        async def search_one(media_id: int) -> str:
            media = await services.storage.database.find(media_id)
            if media is None:
                raise MediaNotFound("there is no image with this id")
            return json.dumps(asdict(await search.find(media)))

        return await _print_each(services, ids, "comparing", search_one)


async def _print_each(
    services: Services,
    ids: list[int] | None,
    label: str,
    line_of: Callable[[int], Awaitable[str]],
) -> int:
    """Print a line or an error for each image, by default for all; return the number of errors."""

    async def print_one(media_id: int) -> bool:
        print_result(await line_of(media_id))
        return True

    def report(media_id: int, error: SmartserveError) -> None:
        # One bad image costs only itself.
        print_error("failed", f"{media_id}: {reason_of(error)}")

    wanted, concurrency = ids or await _all_ids(services), services.settings.workers.processes
    with progress_bar(label, len(wanted)) as progress:
        failed = await process_each(
            wanted, print_one, progress=progress, concurrency=concurrency, on_error=report
        )
    print_summary(label, done=len(wanted) - failed, failed=failed)
    return failed


async def _all_ids(services: Services) -> list[int]:
    """Return the ids of all images that can be served, ascending."""
    found: list[int] = []
    # By pages: a library may have a million images.
    while page := await services.storage.repository.ids(after=found[-1] if found else 0):
        found.extend(page)
    return found
