"""Commands on pictures: import, warm, analyse, purge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from proxy.analysing import Analyst
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    all_ids,
    app,
    base_url,
    each,
    errors,
    progress_bar,
    read_settings,
    run,
)
from proxy.errors import (
    BadParameter,
    MediaNotFound,
    SmartserveError,
)
from proxy.geometry import SizeSpec
from proxy.ingest.importing import Imported, Refused, walk
from proxy.media import DataType
from proxy.purging import Purged
from proxy.query import named_boxes
from proxy.settings import Settings
from proxy.wiring import (
    Rooms,
    open_analyst,
    open_rooms,
    open_storage,
)


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
                outcome = await rooms.importer.take(path, user_id=user_id, data_type=data_type)
                refused += isinstance(outcome, Refused)
                _tell(outcome, base_url(settings), as_json=as_json)
                progress.advance(progress.task_ids[0])

            await each(files, take, at_once=settings.workers.processes)
    return refused


def _tell(outcome: Imported | Refused, base: str, *, as_json: bool) -> None:
    match outcome, as_json:
        case Refused(path, reason), True:
            print(json.dumps({"path": str(path), "error": reason}))
        case Refused(path, reason), False:
            errors.print(f"[red]skipped[/red] {path}: {reason}", highlight=False, soft_wrap=True)
        case Imported(path, media_id, known), True:
            url = f"{base}/serve/{media_id}"
            print(json.dumps({"path": str(path), "id": media_id, "url": url, "known": known}))
        case Imported(path, media_id, known), False:
            print(f"{media_id}\t{base}/serve/{media_id}\t{path}{'  (known)' if known else ''}")


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


async def _warm(settings: Settings, ids: list[int]) -> int:
    failed = 0
    async with open_rooms(settings) as rooms:
        wanted = ids or await all_ids(rooms)
        with progress_bar("warming", len(wanted)) as progress:

            async def one(media_id: int) -> None:
                nonlocal failed
                failed += not await _warm_one(rooms, media_id)
                progress.advance(progress.task_ids[0])

            await each(wanted, one, at_once=settings.workers.processes)
        await rooms.delivery.drain()
    return failed


async def _warm_one(rooms: Rooms, media_id: int) -> bool:
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

        await each(ids or await all_ids(rooms), one, at_once=settings.workers.processes)
    return failed


async def _analyse_one(rooms: Rooms, analyst: Analyst, media_id: int) -> bool:
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


@app.command()
def purge(
    ids: Annotated[list[int] | None, typer.Argument(help="Media ids.")] = None,
    user_id: Annotated[
        int | None, typer.Option(min=0, help="All media of this user as well.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Only this named size.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Drop renditions of media, from this machine's servers' memory too."""
    if not ids and user_id is None:
        raise typer.BadParameter("name media ids, or --user-id")
    settings = read_settings(config, data_dir)
    try:
        boxes = () if size is None else named_boxes(size, settings.size_specs())
    except BadParameter as error:
        raise typer.BadParameter(error.allowed, param_hint="--size") from None
    run(_purge(settings, ids or [], user_id, boxes))


async def _purge(
    settings: Settings, ids: list[int], user_id: int | None, boxes: Sequence[SizeSpec]
) -> None:
    async with open_storage(settings) as storage:
        for media_id in ids:
            _tell_purged(Purged(media_id, await storage.purger.medium(media_id, boxes)))
        if user_id is not None:
            async for purged in storage.purger.user(user_id, boxes):
                _tell_purged(purged)


def _tell_purged(purged: Purged) -> None:
    print(f"{purged.media_id}\t{purged.dropped} dropped")
