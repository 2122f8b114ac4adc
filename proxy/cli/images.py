"""Commands on pictures: import, warm, analyse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from proxy.analysis.analyst import Analyst
from proxy.app.services import Services, open_analyst, open_rooms
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    app,
    each,
    errors,
    progress_bar,
    read_settings,
    run,
)
from proxy.domain.errors import (
    MediaNotFound,
    SmartserveError,
)
from proxy.domain.media import DataType
from proxy.domain.urls import image_url
from proxy.library.import_files import ImportedFile, RejectedFile, walk
from proxy.settings import Settings


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with all below them.")],
    user_id: Annotated[int, typer.Option(min=0, help="Owner of the pictures.")] = 1,
    type_: Annotated[
        DataType, typer.Option("--type", help="What they are for.")
    ] = DataType.PRODUCT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take pictures into the database and the storage; each is checked to the last pixel.

    Equal content is recognised and not taken twice. A file that cannot be served is named and
    skipped; then the exit code is 1.
    """
    settings = read_settings(config, data_dir)
    refused = run(_import(settings, paths, user_id=user_id, data_type=type_, as_json=as_json))
    raise SystemExit(1 if refused else 0)


async def _import(
    settings: Settings, paths: list[Path], *, user_id: int, data_type: DataType, as_json: bool
) -> int:
    files = list(walk(paths))
    refused = 0
    async with open_rooms(settings) as rooms:
        with progress_bar("importing", len(files)) as progress:

            async def take(path: Path) -> None:
                nonlocal refused
                outcome = await rooms.importer.import_file(
                    path, user_id=user_id, data_type=data_type
                )
                refused += isinstance(outcome, RejectedFile)
                _tell(outcome, settings.base_url(), as_json=as_json)
                progress.advance(progress.task_ids[0])

            await each(files, take, at_once=settings.workers.processes)
    return refused


def _tell(outcome: ImportedFile | RejectedFile, base: str, *, as_json: bool) -> None:
    match outcome, as_json:
        case RejectedFile(path, reason), True:
            print(json.dumps({"path": str(path), "error": reason}))
        case RejectedFile(path, reason), False:
            errors.print(f"[red]skipped[/red] {path}: {reason}", highlight=False, soft_wrap=True)
        case ImportedFile(path, media_id, known), True:
            url = image_url(media_id, base=base)
            print(json.dumps({"path": str(path), "id": media_id, "url": url, "known": known}))
        case ImportedFile(path, media_id, known), False:
            url = image_url(media_id, base=base)
            print(f"{media_id}\t{url}\t{path}{'  (known)' if known else ''}")


@app.command()
def warm(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Media ids; all where none is given.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Render all named sizes in all formats that a browser can be given.

    So no visitor has to wait for one.
    """
    failed = run(_warm(read_settings(config, data_dir), ids or []))
    raise SystemExit(1 if failed else 0)


async def _all_ids(rooms: Services) -> list[int]:
    """Ids of all media that can be served, ascending."""
    found: list[int] = []
    while page := await rooms.storage.catalogue.ids(after=found[-1] if found else 0):
        found.extend(page)
    return found


async def _warm(settings: Settings, ids: list[int]) -> int:
    failed = 0
    async with open_rooms(settings) as rooms:
        wanted = ids or await _all_ids(rooms)
        with progress_bar("warming", len(wanted)) as progress:

            async def one(media_id: int) -> None:
                nonlocal failed
                failed += not await _warm_one(rooms, media_id)
                progress.advance(progress.task_ids[0])

            await each(wanted, one, at_once=settings.workers.processes)
        await rooms.delivery.drain()
    return failed


async def _warm_one(rooms: Services, media_id: int) -> bool:
    try:
        warmed = await rooms.warmer.warm(media_id)
    except SmartserveError as error:
        errors.print(f"[red]failed[/red] {media_id}: {error.detail}", highlight=False)
        return False
    print(f"{media_id}\t{warmed.rendered} rendered, {warmed.present} present")
    return True


@app.command()
def analyse(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Media ids; all where none is given.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Tell what is known of pictures, as one JSON object a line: colours, quality, mood, text.

    What needs a model is null, with the reason, unless [vision] has a key for one. Nothing is
    stored.
    """
    failed = run(_analyse(read_settings(config, data_dir), ids or []))
    raise SystemExit(1 if failed else 0)


async def _analyse(settings: Settings, ids: list[int]) -> int:
    failed = 0
    async with open_rooms(settings) as rooms, open_analyst(rooms) as analyst:

        async def one(media_id: int) -> None:
            nonlocal failed
            failed += not await _analyse_one(rooms, analyst, media_id)

        await each(ids or await _all_ids(rooms), one, at_once=settings.workers.processes)
    return failed


async def _analyse_one(rooms: Services, analyst: Analyst, media_id: int) -> bool:
    media = await rooms.storage.database.find(media_id)
    try:
        if media is None:
            raise MediaNotFound("there is no picture with this id")
        analysis = await analyst.analyse(media, await rooms.inspector.facts(media))
    except SmartserveError as error:
        errors.print(f"[red]failed[/red] {media_id}: {error.detail}", highlight=False)
        return False
    print(json.dumps({"id": media_id, **analysis.public()}))
    return True
