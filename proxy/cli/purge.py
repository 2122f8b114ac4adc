"""``smartserve purge``: delete renditions from disk and from the memory of running servers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from proxy.app.storage import open_storage
from proxy.cli.base import (
    command,
    print_error,
    print_result,
    print_summary,
    progress_bar,
    reason_of,
)
from proxy.domain.errors import BadParameter, SmartserveError, StorageError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.request import named_boxes
from proxy.serving.purge import PurgeResult
from proxy.settings import Settings
from proxy.storage.renditions.disk_state import SHARDS

_UNRECORDED = (
    "The database did not accept all purges, so other servers still have their renditions. The"
    " server that uses this directory records the purges when the database accepts them; without"
    " one, repeat this command."
)


@command()
async def purge(
    settings: Settings,
    ids: Annotated[
        list[int] | None,
        typer.Argument(min=1, max=MAX_MEDIA_ID, metavar="ID", help="Media ids."),
    ] = None,
    user_id: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_MEDIA_ID, help="Also purge all images of this user."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(show_default="all", help="Purge only this named size.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Purge all images of all users, in all sizes.")
    ] = False,
) -> int:
    """Delete renditions of images, here and on all servers that use the database."""
    if everything:
        if ids or user_id is not None or size is not None:
            raise typer.BadParameter("--all purges all images in all sizes: name nothing else")
        return await _purge_all(settings)
    # Nothing means nothing: a purge of everything must not happen by mistake.
    if not ids and user_id is None:
        raise typer.BadParameter("name media ids, --user-id, or --all")
    try:
        # A size may have several boxes: one for each device pixel ratio.
        boxes = () if size is None else named_boxes(size, settings.size_specs())
    except BadParameter as error:
        raise typer.BadParameter(error.allowed, param_hint="--size") from None
    report = _Report()
    async with open_storage(settings) as storage:
        # One by one: each is reported as soon as it is purged on disk and announced to the servers.
        for media_id in ids or []:
            try:
                report.add(await storage.purger.medium(media_id, boxes))
            except SmartserveError as error:
                report.fail(media_id, error)
        if user_id is not None:
            async for purged in storage.purger.user(user_id, boxes):
                report.add(purged)
    print_summary("purge", images=report.done, failed=report.failed)
    if not report.recorded:
        print(_UNRECORDED, file=sys.stderr)
    return report.failed + (not report.recorded)


async def _purge_all(settings: Settings) -> int:
    async with open_storage(settings) as storage:
        try:
            recorded = await storage.purger.everything()
        except StorageError as error:
            print_error("failed", reason_of(error))
            return 1
        if recorded:
            print_result("all images\tpurged on all servers; deleting their files on this one")
        else:
            print(_UNRECORDED, file=sys.stderr)
        # Interrupted, it is continued by the server that uses this directory.
        with progress_bar("deleting", SHARDS) as progress:
            async for left in storage.renditions.disk.maintenance.delete_discarded():
                progress.update(progress.task_ids[0], completed=max(0, SHARDS - left))
            progress.update(progress.task_ids[0], completed=SHARDS)
    return int(not recorded)


@dataclass(slots=True)
class _Report:
    """Prints a line for each image, and counts them."""

    done: int = 0
    failed: int = 0
    recorded: bool = True

    def add(self, purged: PurgeResult) -> None:
        self.recorded &= purged.recorded
        if purged.error is not None:
            self.fail(purged.media_id, purged.error)
        elif purged.media_id is not None:
            self.done += 1
            print_result(f"{purged.media_id}\t{purged.dropped} dropped")

    def fail(self, media_id: int | None, error: SmartserveError) -> None:
        self.failed += 1
        print_error("failed", f"{media_id}: {reason_of(error)}")
