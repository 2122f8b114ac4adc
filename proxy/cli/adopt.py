"""``smartserve adopt``: take over a storage tree that another system filled."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from proxy.app.adoption import TreePlace, open_adopter, open_inventory, path_below, place_of
from proxy.app.services import open_rooms
from proxy.app.storage import StorageServices, open_storage
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
from proxy.domain.media import DataType, MediaFacts
from proxy.library.adoption.adopt import AdoptedMedia, AdoptionOwner, Outcome
from proxy.library.adoption.grouping import FileGroup
from proxy.library.adoption.inventory import SkippedFile, TreeInventory
from proxy.library.adoption.scan import enter_files, enter_rows, groups
from proxy.settings import Settings


@app.command()
def adopt(
    directory: Annotated[Path, typer.Argument(help="A storage tree, or a part of one.")],
    user_id: Annotated[
        int, typer.Option(min=0, help="Owner where neither folder nor name tells.")
    ] = 1,
    type_: Annotated[
        DataType, typer.Option("--type", help="What for, where neither folder nor name tells.")
    ] = DataType.PRODUCT,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell which files would be one picture.")
    ] = False,
    reserve: Annotated[
        bool, typer.Option(help="Also make a rendition of each pre-made size, for a full queue.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take over a storage tree that another system filled: originals and the sizes made of them.

    Below storage.root files stay where they are; else they are copied there. Rows that name the
    files are recognised, and equal content. It may be run again at any time. What cannot be served
    is named and skipped; then the exit code is 1.
    """
    settings = read_settings(config, data_dir)
    teller = _Teller(as_json=as_json)
    place = place_of(settings, directory)
    if dry_run:
        run(_tell_only(settings, place, teller))
    else:
        run(_adopt(settings, place, AdoptionOwner(user_id, type_), teller, reserve=reserve))
    raise SystemExit(1 if teller.skipped else 0)


async def _adopt(
    settings: Settings, place: TreePlace, owner: AdoptionOwner, teller: _Teller, *, reserve: bool
) -> None:
    async with open_rooms(settings) as rooms, open_adopter(rooms, place, owner) as adopter:
        with open_inventory(settings, place) as inventory:
            stems = await _filled(inventory, settings, place, rooms.storage, teller)
            with progress_bar("adopting", stems) as progress:

                async def take(group: FileGroup) -> None:
                    for outcome in await adopter.adopt(group):
                        if reserve and isinstance(outcome, AdoptedMedia):
                            await rooms.reserve.fill(outcome.media_id)
                        teller.tell(outcome)
                    progress.advance(progress.task_ids[0])

                async with aclosing(groups(inventory)) as pages:
                    async for page in pages:
                        await each(page, take, at_once=settings.workers.processes)


async def _tell_only(settings: Settings, place: TreePlace, teller: _Teller) -> None:
    async with open_storage(settings) as storage:
        with open_inventory(settings, place) as inventory:
            await _filled(inventory, settings, place, storage, teller)
            async with aclosing(groups(inventory)) as pages:
                async for page in pages:
                    for group in page:
                        teller.tell_plan(group)


async def _filled(
    inventory: TreeInventory,
    settings: Settings,
    place: TreePlace,
    storage: StorageServices,
    teller: _Teller,
) -> int:
    """Enter tree and rows; gives how many stems there are."""
    below = path_below(settings, place)
    async with aclosing(enter_files(inventory, place.root, place.start)) as skipped:
        async for one in skipped:
            teller.tell(one)
    if place.in_place:
        await enter_rows(inventory, storage.catalogue, below)
    return inventory.finish()


class _Teller:
    """Says what became of files, a line each."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.skipped = 0

    def tell(self, outcome: Outcome) -> None:
        """A medium on standard output; what was skipped on standard error, but in JSON."""
        self.skipped += isinstance(outcome, SkippedFile)
        if self._as_json:
            print(json.dumps(_fields(outcome)), flush=True)
        elif isinstance(outcome, SkippedFile):
            told = f"[red]skipped[/red] {escape(outcome.path)}: {outcome.reason}"
            errors.print(told, highlight=False, soft_wrap=True)
        else:
            known = "  (known)" if outcome.known else ""
            print(f"{outcome.media_id}\t{outcome.path}\t{_summary(outcome)}{known}", flush=True)

    def tell_plan(self, group: FileGroup) -> None:
        """What would be done with a group, as far as names and rows tell."""
        first = (group.masters or group.files)[0]
        others = [one.path for one in group.files if one is not first]
        if self._as_json:
            ids = list(group.media_ids)
            print(json.dumps({"ids": ids, "path": first.path, "others": others}))
        else:
            ids_ = ",".join(map(str, group.media_ids)) or "new"
            print("\t".join([ids_, first.path, *others]))


def _fields(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, SkippedFile):
        return {"path": outcome.path, "error": outcome.reason}
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
    return f"{source}; stand-ins: {sizes}" if sizes else source


def _size(facts: MediaFacts) -> str:
    return f"{facts.width}x{facts.height} {facts.source_type}"
