"""Purging: let go of what was made of media, by medium and by user, all of it or one size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from proxy.domain.geometry import SizeSpec, shapes_of
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.variant import Shapes
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.renditions import RenditionStore

_PAGE = 1000


class RowInvalidator(Protocol):
    """What purging asks of the rows that are kept in memory."""

    async def find(self, media_id: int) -> Media | None:
        """The row with its facts, or None."""

    def invalidate(self, media_id: int) -> None:
        """Drop all that is known of a row, so that it is read again."""

    async def delete_facts(self, media_id: int) -> None:
        """Drop what was learned about a source, so that it is learned again."""


class PurgeResult(NamedTuple):
    """A medium, and how many of its renditions were dropped."""

    media_id: int
    dropped: int


class PurgeService:
    """Drops renditions in memory, on disk, under way, and in other processes.

    A medium needs no row: files may outlive it. What is not there is no fault, so each purge may
    be done again.
    """

    def __init__(
        self,
        *,
        rows: RowInvalidator,
        catalogue: SqlMediaRepository,
        store: RenditionStore,
        forgetters: Iterable[Callable[[int], None]],
    ) -> None:
        """``forgetters`` are called with each medium before its renditions go."""
        self._rows = rows
        self._catalogue = catalogue
        self._store = store
        self._forgetters = forgetters

    async def medium(self, media_id: int, boxes: Sequence[SizeSpec] = ()) -> int:
        """Drop what was made of a medium in these boxes; gives how many renditions.

        Without boxes that is everything, and what was learned about its source is forgotten too. A
        rendition that two sizes share, for they have the same pixels, goes with either of them.

        Raises:
            DatabaseUnavailable: nothing was dropped.
            StorageError: some may still be there.
        """
        if media_id > MAX_MEDIA_ID:
            return 0
        shapes = await self._shapes(media_id, boxes)
        if shapes is None:
            await self._rows.delete_facts(media_id)
        for forget in self._forgetters:
            forget(media_id)
        return await self._store.purge(media_id, shapes)

    async def user(
        self, user_id: int, boxes: Sequence[SizeSpec] = ()
    ) -> AsyncIterator[PurgeResult]:
        """Purge all media that a user has rows of, in order of their ids, each as `medium` does."""
        after = 0
        while page := await self._catalogue.ids_of_user(user_id, after=after, limit=_PAGE):
            for media_id in page:
                yield PurgeResult(media_id, await self.medium(media_id, boxes))
            after = page[-1]

    async def _shapes(self, media_id: int, boxes: Sequence[SizeSpec]) -> Shapes:
        """The shapes of a medium in these boxes, by its row as it stands now.

        All, where its facts are not known: which file is of which size cannot be told then.
        """
        if not boxes:
            return None
        self._rows.invalidate(media_id)
        media = await self._rows.find(media_id)
        facts = None if media is None else media.known_facts
        if media is None or facts is None:
            return None
        return frozenset().union(*(shapes_of(boxes, one) for one in (facts, *media.fallbacks)))
