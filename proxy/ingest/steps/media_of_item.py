"""The shelf: the medium of an upload and its facts, as the database has them now."""

from __future__ import annotations

from typing import Protocol

from proxy.domain.errors import MediaNotFound
from proxy.domain.ingest_item import LeasedItem
from proxy.domain.media import Media, MediaFacts
from proxy.serving.source_facts import SourceFactsService


class MediaRows(Protocol):
    """The rows as they stand, past every cache; `SqlMediaDatabase` is one."""

    async def find(self, media_id: int) -> Media | None:
        """The row with its facts, or None."""


class IngestMediaLoader:
    """Gives media that are being taken in."""

    def __init__(self, *, rows: MediaRows, inspector: SourceFactsService) -> None:
        """The rooms it works with."""
        self._rows = rows
        self._inspector = inspector

    async def take(self, item: LeasedItem) -> tuple[Media, MediaFacts]:
        """The medium of an upload with its facts.

        Raises:
            MediaNotFound: somebody has deleted its row.
            SmartserveError: as `SourceFactsService.facts` does.
        """
        media = await self._rows.find(item.lease.media_id)
        if media is None:
            raise MediaNotFound("the row of the medium is gone")
        return media, await self._inspector.facts(media)
