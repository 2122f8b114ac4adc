"""Faces of images: detected once for each image, before the first crop that depends on them.

A crop never fails for want of faces. If they cannot be found now, it keeps the point of interest,
and is cached for a short time only.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog
from cachetools import LRUCache

from proxy.domain.errors import ConfigurationError, DatabaseUnavailable, SmartserveError
from proxy.domain.media import Face, Media, MediaFacts
from proxy.domain.worker_protocol import FaceJob, Limits
from proxy.rendering.pool.on_demand import OnDemandPool
from proxy.runtime.single_flight import SharedResults
from proxy.serving.job_dispatch import JobDispatcher
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.row_cache import CachedMediaRepository

OUTCOMES = ("faces", "none", "failed", "late")
"""Results of a detection: faces or none were found, it failed, or a request did not wait for it."""
_MAX_ITEMS = 10_000
_RETRY_S = 60.0
"""Time after a failed start of the process in which no other start is tried."""

log = structlog.get_logger(__name__)


class FaceFinder:
    """Finds the faces of images, and stores them; owns its process until `aclose`."""

    def __init__(
        self,
        *,
        media: SqlMediaRepository,
        rows: CachedMediaRepository,
        dispatcher: JobDispatcher,
        processes: OnDemandPool,
        limits: Limits,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``dispatcher`` uses the pool of ``processes``.

        ``wait_s`` limits the time that a client's request waits.
        """
        self._media = media
        self._rows = rows
        self._dispatcher = dispatcher
        self._processes = processes
        self._limits = limits
        self._wait_s = wait_s
        self._clock = clock
        self._paused_until = 0.0
        # Also what the database could not store.
        self._found: LRUCache[tuple[int, str], tuple[Face, ...]] = LRUCache(_MAX_ITEMS)
        self._shared: SharedResults[tuple[Face, ...]] = SharedResults()
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0

    async def complete(self, media: Media, facts: MediaFacts) -> MediaFacts:
        """Return facts with their faces; without them if they cannot be found now."""
        if facts.faces is not None:
            return facts
        found = self._found.get((media.id, facts.content_hash))
        if found is None:
            if self._clock() < self._paused_until:
                return facts
            key = f"{media.id}/{facts.content_hash}"
            try:
                found = await self._shared.result(key, lambda: self._find(media, facts))
            # Counted and logged where it occurred, once for all who wait.
            except SmartserveError:
                return facts
        return replace(facts, faces=found)

    async def complete_soon(self, media: Media, facts: MediaFacts) -> MediaFacts:
        """As `complete`, for a client that waits; a detection that is late goes on without it."""
        try:
            async with asyncio.timeout(self._wait_s):
                return await self.complete(media, facts)
        except TimeoutError:
            self._counts["late"] += 1
            return facts

    async def _find(self, media: Media, facts: MediaFacts) -> tuple[Face, ...]:
        found = await self._stored(media, facts)
        if found is None:
            found = await self._detect(media, facts)
            try:
                await self._media.save_faces(media.id, facts.content_hash, found)
            except DatabaseUnavailable as error:
                # They stay in memory; another process detects them again.
                log.warning("faces_not_stored", media_id=media.id, reason=error.reason)
        self._found[media.id, facts.content_hash] = found
        self._rows.faces_found(media.id, facts.content_hash, found)
        return found

    async def _stored(self, media: Media, facts: MediaFacts) -> tuple[Face, ...] | None:
        """Return what another process has stored since the row was cached, or None."""
        try:
            current = await self._media.find(media.id)
        except SmartserveError:
            return None
        stored = None if current is None else current.facts
        if stored is None or stored.content_hash != facts.content_hash:
            return None
        return stored.faces

    async def _detect(self, media: Media, facts: MediaFacts) -> tuple[Face, ...]:
        job = FaceJob(self._limits)
        try:
            # An image that failed a while ago must not start a process.
            self._dispatcher.check(media)
            async with self._processes.running():
                done = await self._dispatcher.run(media, job, facts=facts)
        except SmartserveError as error:
            self._counts["failed"] += 1
            if isinstance(error, ConfigurationError):
                self._paused_until = self._clock() + _RETRY_S
            log.warning(
                "face_detection_failed",
                media_id=media.id,
                error=type(error).__name__,
                detail=str(error),
            )
            raise
        faces = done.result.faces
        self._counts["faces" if faces else "none"] += 1
        self._seconds += done.work_s
        return faces

    def statistics(self) -> Mapping[str, float]:
        """Return the detections by `OUTCOMES`, the seconds of all, and the running processes."""
        return {
            **{f"detections_{name}": self._counts[name] for name in OUTCOMES},
            "seconds": self._seconds,
            "up": len(self._processes.pool.pids),
        }

    async def aclose(self) -> None:
        """Cancel the running detections and end the process."""
        await self._shared.aclose()
        await self._processes.aclose()


NO_DETECTIONS: Mapping[str, float] = {
    **{f"detections_{name}": 0.0 for name in OUTCOMES},
    "seconds": 0.0,
    "up": 0.0,
}
"""The statistics of a server that detects no faces."""
