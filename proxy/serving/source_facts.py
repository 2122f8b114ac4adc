"""Source facts: reads dimensions, hash and other properties of a source when they are needed."""

from __future__ import annotations

from dataclasses import fields

from proxy.domain.media import Media, MediaFacts, ProbeResult
from proxy.domain.worker_protocol import Limits, ProbeJob
from proxy.runtime.single_flight import SharedResults
from proxy.serving.job_dispatch import JobDispatcher
from proxy.storage.database import MediaRepository


def to_facts(result: ProbeResult, source_path: str, *, row_version: str = "") -> MediaFacts:
    """Return the result of a probe in the form that the database stores."""
    # Not `asdict`, which would make a dict of the focus, too.
    facts = {field.name: getattr(result, field.name) for field in fields(result)}
    return MediaFacts(**facts, source_path=source_path, row_version=row_version)


class SourceFactsService:
    """Reads the facts of sources in a worker and stores them in the database."""

    def __init__(
        self, *, database: MediaRepository, dispatcher: JobDispatcher, limits: Limits
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._limits = limits
        self._shared: SharedResults[MediaFacts] = SharedResults()

    async def facts(self, media: Media) -> MediaFacts:
        """Return the known facts, else read them as `learn` does."""
        return media.known_facts or await self.learn(media)

    async def learn(self, media: Media) -> MediaFacts:
        """Read and store the facts, also if they are known; simultaneous calls share one read.

        Raises:
            RenderError: the image cannot be decoded, or exceeds a limit.
            SourceError: its file cannot be read.
            CapacityError: no worker became free in time.
        """
        return await self._shared.result(str(media.id), lambda: self._learn(media))

    async def _learn(self, media: Media) -> MediaFacts:
        done = await self._dispatcher.run(media, ProbeJob(self._limits))
        # With the path and version of the row that was probed. If the row changed during the probe,
        # `Media.known_facts` ignores these facts.
        facts = to_facts(done.result, media.source_path or "", row_version=media.row_version)
        await self._database.save_facts(media.id, facts)
        return facts

    async def aclose(self) -> None:
        """Cancel the running reads."""
        await self._shared.aclose()
