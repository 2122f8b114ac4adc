"""Finds originals on other web servers that have changed, and reads their facts again.

The content hash in the facts is a part of each rendition's key, so new facts mean new renditions.
Requests for stored renditions need no original: without this, they would never notice a change.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog
from cachetools import LRUCache

from proxy.domain.errors import SmartserveError
from proxy.domain.media import Media
from proxy.serving.source_facts import SourceFactsService
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.originals.http_addresses import is_address
from proxy.storage.originals.http_store import HttpOriginals

_BATCH = 500
_CONCURRENCY = 4
_MAX_DUE = 1_000_000

log = structlog.get_logger(__name__)


class SourceRevalidator:
    """Checks the originals of cached rows, each once per interval."""

    def __init__(
        self,
        *,
        rows: CachedMediaRepository,
        originals: HttpOriginals,
        facts: SourceFactsService,
        changed: Callable[[int], None],
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """``changed`` is called with the id of a medium whose facts are new."""
        self._rows = rows
        self._originals = originals
        self._facts = facts
        self._changed = changed
        self._interval_s = interval_s
        self._clock = clock
        self._jitter = jitter
        self._due: LRUCache[str, float] = LRUCache(_MAX_DUE)

    async def run(self) -> None:
        """Check all originals that are due, a few at the same time."""
        due: list[Media] = []
        ids = self._rows.cached_ids()
        for start in range(0, len(ids), _BATCH):
            cached = map(self._rows.cached_row, ids[start : start + _BATCH])
            due += (media for media in cached if media is not None and self._is_due(media))
            # A cache may have a million rows.
            await asyncio.sleep(0)
        limit = asyncio.Semaphore(_CONCURRENCY)

        async def check(media: Media) -> None:
            async with limit:
                await self._check(media)

        for start in range(0, len(due), _BATCH):
            await asyncio.gather(*map(check, due[start : start + _BATCH]))

    def _is_due(self, media: Media) -> bool:
        path = media.source_path
        if path is None or not is_address(path):
            return False
        # Distributed over the interval: after a start, all rows are new here.
        at = self._due.get(path)
        if at is None:
            at = self._due[path] = self._clock() + self._jitter(0, self._interval_s)
        return self._clock() >= at

    async def _check(self, media: Media) -> None:
        facts, path = media.known_facts, media.source_path
        if facts is None or path is None:
            return
        self._due[path] = self._clock() + self._interval_s
        try:
            if await self._originals.changed(path, facts.content_hash):
                await self._facts.learn(media)
                self._changed(media.id)
                log.info("original_changed", media_id=media.id)
        except SmartserveError as error:
            # It is served as it was. The next check may find the server again.
            log.debug("original_not_checked", media_id=media.id, detail=error.detail)
