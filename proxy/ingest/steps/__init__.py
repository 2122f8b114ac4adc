"""The steps of an upload: download, analyse, render, callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.domain.errors import MediaNotFound
from proxy.domain.media import Media, MediaFacts
from proxy.domain.upload import LeasedItem
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.database.ingest_progress import IngestProgress
from proxy.storage.database.media_repository import SqlMediaRepository


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """Services that all steps share. ``changed`` is called with a media id when its row changed."""

    media: SqlMediaRepository
    """The database itself, not a cache: other processes change the same rows."""
    facts: SourceFactsService
    progress: IngestProgress
    changed: Callable[[int], None]

    async def current(self, item: LeasedItem) -> tuple[Media, MediaFacts]:
        """Return the medium of an upload with its facts.

        Raises:
            MediaNotFound: its row was deleted.
            SmartserveError: its facts are unknown and could not be read from its source.
        """
        media = await self.media.find(item.lease.media_id)
        if media is None:
            raise MediaNotFound("The row of the medium was deleted.")
        return media, await self.facts.facts(media)
