"""Inspection: learn the facts of a picture from its bytes when they are first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from proxy.database import MediaDatabase
from proxy.errors import SmartserveError
from proxy.jobs import Limits, ProbeJob, ProbeResult
from proxy.media import Media, MediaFacts
from proxy.workers.flight import Flight
from proxy.workshop import Workshop


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


class Inspector:
    """Gives the facts of media, from the database or from a worker."""

    def __init__(self, *, database: MediaDatabase, workshop: Workshop, limits: Limits) -> None:
        """The rooms it works with; it owns none of them."""
        self._database = database
        self._workshop = workshop
        self._limits = limits
        self._flight: Flight[asyncio.Future[MediaFacts]] = Flight()

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
        learned, _ = self._flight.join(str(media.id), lambda: self._launch(media))
        return await asyncio.shield(learned)

    def _launch(self, media: Media) -> tuple[asyncio.Future[MediaFacts], Coroutine[Any, Any, None]]:
        learned: asyncio.Future[MediaFacts] = asyncio.get_running_loop().create_future()
        # Every waiter may have left by the time it fails; the quarantine remembers the failure.
        learned.add_done_callback(lambda done: done.cancelled() or done.exception())
        return learned, self._settle(media, learned)

    async def _settle(self, media: Media, learned: asyncio.Future[MediaFacts]) -> None:
        try:
            done = await self._workshop.run(media, ProbeJob(self._limits))
            path = media.source_path or ""
            facts = to_facts(done.result, path, row_version=media.row_version)
            await self._database.save_facts(media.id, facts)
        except SmartserveError as error:
            learned.set_exception(error)
        except BaseException:
            learned.cancel()
            raise
        else:
            learned.set_result(facts)

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self._flight.aclose()
