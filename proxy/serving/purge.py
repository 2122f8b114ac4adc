"""Purge: deletes the renditions of media, by medium or user, all sizes or some."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.variant import Shapes, SizeSpec, shapes_of
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.renditions.tiered_store import TieredStore

_PAGE = 1000


class PurgeResult(NamedTuple):
    """A medium and the number of its renditions that were deleted."""

    media_id: int
    dropped: int


class PurgeService:
    """Deletes renditions in memory and on disk, voids running writes, notifies other processes.

    A medium needs no row, because files may outlive it. A purge can be repeated: what is already
    gone is not an error.
    """

    def __init__(
        self,
        *,
        rows: CachedMediaRepository,
        catalogue: SqlMediaRepository,
        store: TieredStore,
        forgetters: Iterable[Callable[[int], None]],
    ) -> None:
        """``forgetters`` are called with each media id before its renditions are deleted."""
        self._rows = rows
        self._catalogue = catalogue
        self._store = store
        self._forgetters = forgetters

    async def medium(self, media_id: int, boxes: Sequence[SizeSpec] = ()) -> int:
        """Delete the renditions of a medium in these boxes; return their number.

        Without boxes, all are deleted, and the facts of the source as well. A rendition that two
        sizes share, because they have the same pixels, is deleted with either of them.

        Raises:
            DatabaseUnavailable: nothing was deleted.
            StorageError: some may still be there.
        """
        # No medium has such an id, so there is nothing to delete.
        if media_id > MAX_MEDIA_ID:
            return 0
        shapes = await self._shapes(media_id, boxes)
        if shapes is None:
            await self._rows.delete_facts(media_id)
        # Before the renditions: no render that starts from now on may use the old row or facts.
        for forget in self._forgetters:
            forget(media_id)
        return await self._store.purge(media_id, shapes)

    async def user(
        self, user_id: int, boxes: Sequence[SizeSpec] = ()
    ) -> AsyncIterator[PurgeResult]:
        """Purge all media of a user in the order of their ids, each as `medium` does."""
        after = 0
        while page := await self._catalogue.ids_of_user(user_id, after=after, limit=_PAGE):
            for media_id in page:
                yield PurgeResult(media_id, await self.medium(media_id, boxes))
            after = page[-1]

    async def _shapes(self, media_id: int, boxes: Sequence[SizeSpec]) -> Shapes:
        """Return the shapes of a medium in these boxes by its current row; None means all."""
        if not boxes:
            return None
        # A cached row may describe an earlier source, whose sizes have other shapes.
        self._rows.invalidate(media_id)
        media = await self._rows.find(media_id)
        facts = None if media is None else media.known_facts
        if media is None or facts is None:
            # Without the dimensions of the source no file can be assigned to a size.
            return None
        return frozenset().union(*(shapes_of(boxes, one) for one in (facts, *media.fallbacks)))
