"""``smartserve purge``: delete renditions from disk and from the memory of running servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
import uvloop

from proxy.app.storage import open_storage
from proxy.cli.base import ConfigOption, DataDirOption, app, read_settings
from proxy.domain.errors import BadParameter
from proxy.domain.request import named_boxes
from proxy.domain.variant import SizeSpec
from proxy.settings import Settings


@app.command()
def purge(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="Media ids.")] = None,
    user_id: Annotated[
        int | None, typer.Option(min=0, help="Also purge all images of this user.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(show_default="all", help="Purge only this named size.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Delete renditions of images, on disk and in the memory of this machine's servers."""
    # Nothing means nothing: a purge of everything must not happen by mistake.
    if not ids and user_id is None:
        raise typer.BadParameter("name media ids, or --user-id")
    settings = read_settings(config, data_dir)
    try:
        # A size may have several boxes: one for each device pixel ratio.
        boxes = () if size is None else named_boxes(size, settings.size_specs())
    except BadParameter as error:
        raise typer.BadParameter(error.allowed, param_hint="--size") from None
    uvloop.run(_purge(settings, ids or [], user_id, boxes))


async def _purge(
    settings: Settings, ids: list[int], user_id: int | None, boxes: Sequence[SizeSpec]
) -> None:
    async with open_storage(settings) as storage:
        # One by one: each is reported as soon as it is purged on disk and announced to the servers.
        for media_id in ids:
            print(f"{media_id}\t{await storage.purger.medium(media_id, boxes)} dropped")
        if user_id is not None:
            async for purged in storage.purger.user(user_id, boxes):
                print(f"{purged.media_id}\t{purged.dropped} dropped")
