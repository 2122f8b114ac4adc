"""``smartserve import``, ``warm`` and ``analyse``: commands that process images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from proxy.analysis.analyst import Analyst
from proxy.app.ingest import open_analyst
from proxy.app.services import Services, open_services
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    IdsArgument,
    JsonLinesOption,
    app,
    print_error,
    process_all,
    read_settings,
)
from proxy.domain.errors import MediaNotFound, SmartserveError
from proxy.domain.media import DataType
from proxy.domain.urls import image_url
from proxy.library.import_files import ImportedFile, RejectedFile, walk
from proxy.settings import Settings


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files, and folders to search recursively.")],
    user_id: Annotated[int, typer.Option(min=0, help="User who owns the images.")] = 1,
    type_: Annotated[
        DataType, typer.Option("--type", help="Purpose of the images.")
    ] = DataType.PRODUCT,
    as_json: JsonLinesOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Add images to the database and the storage.

    Decodes each image completely. A file whose content is already stored is not added again. Prints
    the reason for each file that is skipped, and exits with 1 if there is one.
    """
    settings = read_settings(config, data_dir)
    rejected = uvloop.run(_import(settings, paths, user_id, type_, as_json=as_json))
    raise SystemExit(1 if rejected else 0)


async def _import(
    settings: Settings, paths: list[Path], user_id: int, data_type: DataType, *, as_json: bool
) -> int:
    async with open_services(settings) as services:

        async def import_one(path: Path) -> bool:
            outcome = await services.importer.import_file(
                path, user_id=user_id, data_type=data_type
            )
            _report_import(outcome, settings.base_url(), as_json=as_json)
            # A file that is stored already is no failure.
            return isinstance(outcome, ImportedFile)

        # More would only wait for a worker.
        concurrency = settings.workers.processes
        return await process_all(
            "importing", list(walk(paths)), import_one, concurrency=concurrency
        )


def _report_import(outcome: ImportedFile | RejectedFile, base: str, *, as_json: bool) -> None:
    path = str(outcome.path)
    # Standard output has only images, unless the format is JSON.
    if isinstance(outcome, RejectedFile):
        if as_json:
            print(json.dumps({"path": path, "error": outcome.reason}))
        else:
            print_error("skipped", f"{path}: {outcome.reason}")
        return
    url = image_url(outcome.media_id, base=base)
    if as_json:
        fields = {"path": path, "id": outcome.media_id, "url": url, "known": outcome.known}
        print(json.dumps(fields))
    else:
        print(f"{outcome.media_id}\t{url}\t{path}{'  (known)' if outcome.known else ''}")


@app.command()
def warm(
    ids: IdsArgument = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Render the finals of all named sizes in all formats that browsers accept.

    Skips renditions that exist. Exits with 1 if an image cannot be rendered.
    """
    failures = uvloop.run(_warm(read_settings(config, data_dir), ids or []))
    raise SystemExit(1 if failures else 0)


async def _warm(settings: Settings, ids: list[int]) -> int:
    async with open_services(settings) as services:

        async def warm_one(media_id: int) -> bool:
            try:
                warmed = await services.serving.warmer.warm(media_id)
            except SmartserveError as error:
                print_error("failed", f"{media_id}: {error.detail}")
                return False
            print(f"{media_id}\t{warmed.rendered} rendered, {warmed.present} present")
            return True

        wanted = ids or await _all_ids(services)
        concurrency = settings.workers.processes
        failures = await process_all("warming", wanted, warm_one, concurrency=concurrency)
        await services.serving.renderer.drain()
    return failures


async def _all_ids(services: Services) -> list[int]:
    """Return the ids of all images that can be served, ascending."""
    found: list[int] = []
    # By pages: a library may have a million images.
    while page := await services.storage.repository.ids(after=found[-1] if found else 0):
        found.extend(page)
    return found


@app.command()
def analyse(
    ids: IdsArgument = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Print colors, quality, mood and text of images, one JSON object per line.

    A value that needs a model is null, with the reason, unless [vision] has a key for a provider.
    Stores nothing. Exits with 1 if an image cannot be analysed.
    """
    failures = uvloop.run(_analyse(read_settings(config, data_dir), ids or []))
    raise SystemExit(1 if failures else 0)


async def _analyse(settings: Settings, ids: list[int]) -> int:
    async with open_services(settings) as services, open_analyst(services) as analyst:

        async def analyse_one(media_id: int) -> bool:
            return await _analyse_one(services, analyst, media_id)

        wanted = ids or await _all_ids(services)
        concurrency = settings.workers.processes
        return await process_all("analysing", wanted, analyse_one, concurrency=concurrency)


async def _analyse_one(services: Services, analyst: Analyst, media_id: int) -> bool:
    # Analysis needs the row, which names the file.
    media = await services.storage.database.find(media_id)
    try:
        if media is None:
            # Reported like any other failure; the remaining images are processed.
            raise MediaNotFound("there is no image with this id")
        analysis = await analyst.analyse(media, await services.serving.facts.facts(media))
    except SmartserveError as error:
        print_error("failed", f"{media_id}: {error.detail}")
        return False
    print(json.dumps({"id": media_id, **analysis.public()}))
    return True
