"""Hot answers: the pair of request target and Accept header, resolved to a ready head.

A picture asked for again with the same target and the same Accept has the same answer as long as
its row is fresh and its rendition is where it was. So the first hit keeps what it worked out, and
the next ones only look it up. The stores alone keep the rendition: a hot answer from memory holds
it by a weak reference, one from disk reads it each time, so that eviction and purge hold for hot
answers at once.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import web

# Their hashes are known: looked up by these, a header takes a third of the time.
from aiohttp.hdrs import ACCEPT, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE
from multidict import MultiMapping

from proxy.domain.media import Media
from proxy.domain.outcome import Origin, Outcome
from proxy.domain.variant import Variant
from proxy.storage.renditions.memory_store import MemoryRendition
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.request_histograms import RequestHistogram
from proxy.web.conditional import matches

FreshUntil = Callable[[Media], float]
"""Until when, on the monotonic clock, a row may be used without asking again; 0 for an old one."""

_MAX_KEY = 1024
"""Characters; who asks with longer ones goes the whole way, so that strangers' text stays small."""
_TOUCH_S = 1.0
"""How often a hot rendition is moved to the young end of the memory store."""


@dataclass(frozen=True, slots=True)
class ResolvedResponse:
    """An answer as it was worked out: heads ready but for Date, and where the body is."""

    media: Media
    variant: Variant
    origin: Origin
    """The tier that it came from: ``memory`` or ``disk``."""
    length: int
    head: bytes
    outcome: Outcome
    not_modified_head: bytes
    not_modified_outcome: Outcome


class CachedResponse(NamedTuple):
    """A hot answer; what differs from one time to the next, as Date does, is not in its head."""

    status: int
    head: bytes
    body: bytes
    outcome: Outcome
    tally: RequestHistogram


def _nothing() -> None:
    """What stands for a rendition that is not in memory."""


class _Hot:
    """A resolved answer with what a hit needs at hand."""

    __slots__ = ("answer", "etag", "not_modified", "rendition", "tally", "touch_at", "until")

    def __init__(
        self,
        answer: ResolvedResponse,
        rendition: MemoryRendition | None,
        until: float,
        metrics: Metrics,
    ) -> None:
        self.answer = answer
        self.etag = answer.variant.etag
        self.rendition = _nothing if rendition is None else weakref.ref(rendition)
        self.until = until
        self.touch_at = 0.0
        self.tally: RequestHistogram = metrics.tally_of(answer.outcome, 200)
        self.not_modified: RequestHistogram = metrics.tally_of(answer.not_modified_outcome, 304)


class ResponseCache:
    """A bounded number of hot answers, the oldest of which go.

    They are made anew in one hit, so an order of last use is not worth its cost in each.
    """

    def __init__(
        self,
        *,
        store: TieredStore,
        metrics: Metrics,
        fresh_until: FreshUntil,
        max_items: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``store`` holds the renditions, ``metrics`` counts the answers."""
        self._store = store
        self._memory = store.memory
        self._metrics = metrics
        self._fresh_until = fresh_until
        self._clock = clock
        self._max_items = max_items
        self._hot: dict[tuple[str, str], _Hot] = {}
        self._keys: dict[int, set[tuple[str, str]]] = {}

    def next_origin(self, variant: Variant) -> Origin:
        """Where the next one who asks gets a stored rendition from: a disk hit may be promoted."""
        return Origin.MEMORY if variant.digest in self._memory else Origin.DISK

    def keep(self, request: web.BaseRequest, accept: str, answer: ResolvedResponse) -> None:
        """Keep what was worked out for a target and an Accept header."""
        until = self._fresh_until(answer.media)
        in_memory = answer.origin is Origin.MEMORY
        rendition = self._memory.peek(answer.variant.digest) if in_memory else None
        if (in_memory and rendition is None) or until <= self._clock():
            return
        key = (request.raw_path, accept)
        if sum(map(len, key)) > _MAX_KEY:
            return
        self._drop(key)
        if len(self._hot) >= self._max_items:
            self._drop(next(iter(self._hot)))
        self._hot[key] = _Hot(answer, rendition, until, self._metrics)
        self._keys.setdefault(answer.media.id, set()).add(key)

    def forget(self, media_id: int) -> None:
        """Drop all answers of a medium: what is known of it, and its ETags, may be others now."""
        for key in self._keys.pop(media_id, ()):
            self._hot.pop(key, None)

    def _drop(self, key: tuple[str, str]) -> None:
        hot = self._hot.pop(key, None)
        if hot is None:
            return
        keys = self._keys[hot.answer.media.id]
        keys.discard(key)
        if not keys:
            del self._keys[hot.answer.media.id]

    def find(
        self,
        target: str,
        method: str,
        headers: MultiMapping[str],
        *,
        longest: int = sys.maxsize,
    ) -> CachedResponse | None:
        """The ready answer to a request, or None where it has to go the whole way.

        Ranges and dates go the whole way; they are rare, and right there. So does a body of more
        than ``longest`` bytes.
        """
        hot = self._hot.get((target, headers.get(ACCEPT, "")))
        if hot is None:
            return None
        now = self._clock()
        if hot.until <= now or not _plain(method, headers):
            return None
        answer = hot.answer
        if IF_NONE_MATCH in headers and _has(headers, hot.etag):
            return CachedResponse(
                304, answer.not_modified_head, b"", answer.not_modified_outcome, hot.not_modified
            )
        rendition = hot.rendition()
        if rendition is None or rendition.length > longest:
            return None
        self._note(hot, now)
        return CachedResponse(200, answer.head, rendition.body, answer.outcome, hot.tally)

    async def read(
        self, target: str, method: str, headers: MultiMapping[str]
    ) -> CachedResponse | None:
        """The answer to a request whose rendition was on disk when it was last asked for.

        None where it has to go the whole way: as `find`, and where the rendition is in memory by
        now, is gone, or is too long to be read at once.
        """
        hot = self._hot.get((target, headers.get(ACCEPT, "")))
        if hot is None or method != "GET" or not _plain(method, headers):
            return None
        answer = hot.answer
        if answer.origin is not Origin.DISK or hot.until <= self._clock():
            return None
        if answer.variant.digest in self._memory:
            return None
        rendition = await self._store.get(answer.variant)
        if rendition is None:
            return None
        rendition.close()
        if rendition.body is None or rendition.length != answer.length:
            return None
        return CachedResponse(200, answer.head, rendition.body, answer.outcome, hot.tally)

    def _note(self, hot: _Hot, now: float) -> None:
        """Count the hit; now and then tell the store that the rendition is in use."""
        if now < hot.touch_at:
            self._memory.hit()
        else:
            hot.touch_at = now + _TOUCH_S
            self._memory.peek(hot.answer.variant.digest)


def _has(headers: MultiMapping[str], etag: str) -> bool:
    return matches(", ".join(headers.getall(IF_NONE_MATCH)), etag)


def _plain(method: str, headers: MultiMapping[str]) -> bool:
    return (
        method in ("GET", "HEAD")
        and RANGE not in headers
        and IF_MODIFIED_SINCE not in headers
        and len(headers.getall(ACCEPT, ())) <= 1
    )
