"""``smartserve purge``: renditions dropped, from disk and from the memory of running servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from proxy.app.storage import open_storage
from proxy.cli.base import ConfigOption, DataDirOption, app, read_settings, run
from proxy.domain.errors import BadParameter
from proxy.domain.geometry import SizeSpec
from proxy.domain.query import named_boxes
from proxy.serving.purge import PurgeResult
from proxy.settings import Settings


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
            _tell_purged(PurgeResult(media_id, await storage.purger.medium(media_id, boxes)))
        if user_id is not None:
            async for purged in storage.purger.user(user_id, boxes):
                _tell_purged(purged)


def _tell_purged(purged: PurgeResult) -> None:
    print(f"{purged.media_id}\t{purged.dropped} dropped")
