"""Inspection: learn the facts of a picture from its bytes when they are first needed."""

from __future__ import annotations

from proxy.domain.media import Media, MediaFacts
from proxy.domain.worker_protocol import Limits, ProbeJob, ProbeResult
from proxy.runtime.single_flight import SharedResults
from proxy.serving.job_dispatch import JobDispatcher
from proxy.storage.database import MediaRepository


def to_facts(result: ProbeResult, source_path: str, *, row_version: str = "") -> MediaFacts:
    """The facts as the database keeps them."""
    return MediaFacts(
        content_hash=result.content_hash,
        byte_size=result.byte_size,
        source_type=result.source_type,
        width=result.width,
        height=result.height,
        has_alpha=result.has_alpha,
        pages=result.pages,
        flat_background=result.flat_background,
        focus=result.focus,
        source_path=source_path,
        row_version=row_version,
    )


class SourceFactsService:
    """Gives the facts of media, from the database or from a worker."""

    def __init__(
        self, *, database: MediaRepository, workshop: JobDispatcher, limits: Limits
    ) -> None:
        """The services it works with; it owns none of them."""
        self._database = database
        self._workshop = workshop
        self._limits = limits
        self._shared: SharedResults[MediaFacts] = SharedResults()

    async def facts(self, media: Media) -> MediaFacts:
        """The facts of a medium, learned now if they are not known.

        Raises:
            RenderError: the picture cannot be decoded, or is past a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker is free in time.
        """
        return media.known_facts or await self.learn(media)

    async def learn(self, media: Media) -> MediaFacts:
        """Read the facts from the source whatever is known, and save them; once for all who ask."""
        return await self._shared.result(str(media.id), lambda: self._learn(media))

    async def _learn(self, media: Media) -> MediaFacts:
        done = await self._workshop.run(media, ProbeJob(self._limits))
        facts = to_facts(done.result, media.source_path or "", row_version=media.row_version)
        await self._database.save_facts(media.id, facts)
        return facts

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self._shared.aclose()
