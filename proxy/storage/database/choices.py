"""Writes what people decide about media: focal point, crops, background and visibility."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.media import (
    NO_CHOICES,
    Background,
    CropBox,
    Focus,
    MediaChoices,
    Visibility,
    stored_choices,
)
from proxy.domain.variant import PurgeEntry
from proxy.storage.database.media_repository import CHOICES
from proxy.storage.database.purge_table import announcement
from proxy.storage.database.tables import DatabaseClock, media_choices, media_files, raw
from proxy.storage.database.transactions import SqlDatabase

_stored, _files = media_choices.c, media_files.c
_MEDIUM = sa.select(_files.id, DatabaseClock().label("now")).where(
    _files.id == sa.bindparam("media_id")
)
# Locked, so that two editors who set different values do not undo each other's.
_CURRENT = (
    sa.select(*(raw(_stored[name]) for name in CHOICES))
    .where(_stored.media_id == sa.bindparam("media_id"))
    .with_for_update()
)
# A row that does not exist cannot be locked: with READ COMMITTED there are no gap locks.
_ADD = (
    sa.insert(media_choices)
    .prefix_with("IGNORE", dialect="mysql")
    .prefix_with("OR IGNORE", dialect="sqlite")
)
_SAVE = sa.update(media_choices).where(_stored.media_id == sa.bindparam("medium"))


class ChoicesRepository:
    """Writes ``media_choices``. Each value has its own last writer, who wins.

    A method stores one value and announces a purge of the medium to all other servers in the same
    transaction; the caller purges on this server (`PurgeService.apply_recorded`). It returns all
    choices as they are then, or None if there is no such medium. A value that is None is deleted.

    Raises:
        DatabaseUnavailable: nothing was stored.
        CommitUncertain: it is unknown whether the value was stored; it can be set again.
    """

    def __init__(self, writer: SqlDatabase, *, server: str = "") -> None:
        """Use connections that the caller closes; ``server`` is `PurgeTable.server`."""
        self._writer = writer
        self._server = server

    async def set_focus(self, media_id: int, focus: Focus | None) -> MediaChoices | None:
        """Set the point that cover crops keep."""
        return await self._set(media_id, lambda old: replace(old, focus=focus))

    async def set_crop(self, media_id: int, size: str, box: CropBox | None) -> MediaChoices | None:
        """Set the region that a named size keeps."""

        def change(old: MediaChoices) -> MediaChoices:
            crops = {name: one for name, one in old.crops if name != size}
            if box is not None:
                crops[size] = box
            return replace(old, crops=tuple(sorted(crops.items())))

        return await self._set(media_id, change)

    async def set_background(
        self, media_id: int, background: Background | None
    ) -> MediaChoices | None:
        """Set the value of ``bg`` for addresses without one."""
        return await self._set(media_id, lambda old: replace(old, background=background))

    async def set_visibility(
        self, media_id: int, visibility: Visibility | None
    ) -> MediaChoices | None:
        """Set who may see the medium."""
        return await self._set(media_id, lambda old: replace(old, visibility=visibility))

    async def _set(
        self, media_id: int, change: Callable[[MediaChoices], MediaChoices]
    ) -> MediaChoices | None:
        return await self._writer.run(partial(self._write, media_id, change))

    async def _write(
        self,
        media_id: int,
        change: Callable[[MediaChoices], MediaChoices],
        connection: AsyncConnection,
    ) -> MediaChoices | None:
        values = {"media_id": media_id}
        medium = (await connection.execute(_MEDIUM, values)).one_or_none()
        if medium is None:
            return None
        row = (await connection.execute(_CURRENT, values)).one_or_none()
        if row is None:
            if change(NO_CHOICES) == NO_CHOICES:
                return NO_CHOICES
            await connection.execute(_ADD, {**values, "updated_at": medium.now})
            row = (await connection.execute(_CURRENT, values)).one()
        # A bad value that is stored counts as not set, and is replaced.
        old = stored_choices(row._asdict(), lambda _: None)
        new = change(old)
        # Nothing is purged for nothing: forms are sent twice.
        if new != old:
            stored = {**_columns(new), "medium": media_id, "updated_at": medium.now}
            await connection.execute(_SAVE, stored)
            await connection.execute(announcement([PurgeEntry(media_id)], server=self._server))
        return new


def _columns(choices: MediaChoices) -> dict[str, Any]:
    focus = choices.focus
    return {
        "focus_x": focus and focus.x,
        "focus_y": focus and focus.y,
        "crops": {name: list(box) for name, box in choices.crops} or None,
        "background": choices.background,
        "visibility": choices.visibility,
    }
