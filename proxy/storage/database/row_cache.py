"""Caches rows in memory, and serves them while the database fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cachetools import LRUCache, TTLCache

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import Media, MediaFacts
from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.settings import DatabaseSettings
from proxy.storage.database import MediaRepository

Clock = Callable[[], float]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Entry:
    media: Media
    valid_until: float


class CachedMediaRepository:
    """Rows that were found, kept for a while; implements `proxy.storage.database.MediaRepository`.

    A row is valid for ``row_ttl_s``, and is kept beyond that, up to ``max_rows`` of them, for the
    time when the database fails: then it goes on being given, at once. That an id has no row is
    believed for ``negative_ttl_s``.

    Facts that the database refuses are kept here: readers get them, and they are offered again
    when the row is next read. A refused write does not keep rows from being read, so an account
    that may only read is served as well.
    """

    def __init__(
        self, inner: MediaRepository, settings: DatabaseSettings, *, clock: Clock = time.monotonic
    ) -> None:
        """Stand before ``inner``, which remains the caller's to close."""
        self._inner = inner
        self._settings = settings
        self._clock = clock
        self._rows: LRUCache[int, _Entry] = LRUCache(settings.max_rows)
        self._absent: TTLCache[int, bool] = TTLCache(
            settings.max_rows, settings.negative_ttl_s, timer=clock
        )
        self._unsaved: LRUCache[int, MediaFacts] = LRUCache(settings.max_rows)
        self._reads = CircuitBreaker("database_reads", pause_s=settings.breaker_s, clock=clock)
        self._writes = CircuitBreaker("database_writes", pause_s=settings.breaker_s, clock=clock)
        self._flights: dict[int, asyncio.Task[Media | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counts: Counter[str] = Counter()

    async def aclose(self) -> None:
        """End the queries that are under way; those who wait for them are cancelled."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def find(self, media_id: int) -> Media | None:
        """The row with its facts, or None; where the database fails, the row as last seen.

        Those who ask for one row at the same time share one query, which goes on for the others
        when one of them is cancelled.
        """
        entry = self._rows.get(media_id)
        if entry is not None and self._clock() < entry.valid_until:
            self._counts["hits"] += 1
            return entry.media
        if media_id in self._absent:
            self._counts["negative_hits"] += 1
            return None
        self._counts["misses"] += 1
        if entry is not None and self._reads.failing:
            return self._answer_stale(entry)
        return await self._ask(media_id)

    def peek(self, media_id: int) -> tuple[Media, float] | None:
        """A row, and until when by the clock it may be used without `find`; None where it asks.

        While the database fails, that is the time when it is asked again. Not counted as a hit.
        """
        entry = self._rows.get(media_id)
        if entry is None:
            return None
        until = max(entry.valid_until, self._reads.open_until)
        return (entry.media, until) if self._clock() < until else None

    def invalidate(self, media_id: int) -> None:
        """Drop all that is known of a row, so that it is read again."""
        self._flights.pop(media_id, None)
        self._rows.pop(media_id, None)
        self._absent.pop(media_id, None)
        self._unsaved.pop(media_id, None)

    async def save_facts(self, media_id: int, facts: MediaFacts) -> None:
        """Keep facts, which readers see at once.

        A database that refuses them is counted and not raised: the facts serve from memory.
        """
        self._put_facts(media_id, facts)
        try:
            await self._write(media_id, facts)
        finally:
            # Again: a query begun meanwhile may have brought the row back as it was.
            self._put_facts(media_id, facts)

    async def delete_facts(self, media_id: int) -> None:
        """Drop facts, at once for readers.

        Raises:
            DatabaseUnavailable: the database still has them; they return when the row is read.
        """
        self._unsaved.pop(media_id, None)
        self._put_facts(media_id, None)
        try:
            await self._inner.delete_facts(media_id)
        finally:
            self._put_facts(media_id, None)

    async def ping(self) -> None:
        """Return when the database itself answers; past cache and breaker."""
        await self._inner.ping()

    def statistics(self) -> Mapping[str, float]:
        """Answers by kind, saves that were refused, what is kept, and 1 while the reads fail."""
        return {
            "hits": self._counts["hits"],
            "misses": self._counts["misses"],
            "negative_hits": self._counts["negative_hits"],
            "stale_answers": self._counts["stale_answers"],
            "refused_saves": self._counts["refused_saves"],
            "items": len(self._rows),
            "negative_items": len(self._absent),
            "unsaved_items": len(self._unsaved),
            "failing": int(self._reads.failing),
        }

    async def _ask(self, media_id: int) -> Media | None:
        """Wait for the query, own or joined; the shield keeps a waiter's end from ending it."""
        try:
            return await asyncio.shield(self._flight(media_id))
        except DatabaseUnavailable:
            entry = self._rows.get(media_id)
            if entry is None:
                raise
            return self._answer_stale(entry)

    def _answer_stale(self, entry: _Entry) -> Media:
        """Give a row as last seen, and leave behind the query that finds the database back."""
        self._counts["stale_answers"] += 1
        if not self._reads.open:
            self._flight(entry.media.id)
        return entry.media

    def _flight(self, media_id: int) -> asyncio.Task[Media | None]:
        flight = self._flights.get(media_id)
        if flight is None:
            flight = self._flights[media_id] = self._spawn(self._query(media_id))
        return flight

    async def _query(self, media_id: int) -> Media | None:
        """Ask the database; the answer is kept unless a write overtook it."""
        flight = asyncio.current_task()
        try:
            with self._attempt(self._reads):
                media = await self._inner.find(media_id)
            if media is not None:
                media = self._with_unsaved(media)
            if self._flights.get(media_id) is flight:
                self._keep(media_id, media)
            return media
        finally:
            if self._flights.get(media_id) is flight:
                del self._flights[media_id]

    @contextmanager
    def _attempt(self, breaker: CircuitBreaker) -> Iterator[None]:
        """Report the result of a query to a breaker.

        Raises:
            DatabaseUnavailable: immediately, if the breaker is open.
        """
        if breaker.open:
            raise DatabaseUnavailable(
                "The media database has just failed.", retry_after_s=self._settings.retry_after_s
            )
        with breaker.attempt(DatabaseUnavailable):
            yield

    def _keep(self, media_id: int, media: Media | None) -> None:
        if media is None:
            self._rows.pop(media_id, None)
            self._absent[media_id] = True
        else:
            self._rows[media_id] = _Entry(media, self._clock() + self._settings.row_ttl_s)

    def _put_facts(self, media_id: int, facts: MediaFacts | None) -> None:
        """Change the row in memory; a query under way, which may not know yet, is not kept."""
        self._flights.pop(media_id, None)
        entry = self._rows.get(media_id)
        if entry is not None:
            self._rows[media_id] = replace(entry, media=replace(entry.media, facts=facts))

    async def _write(self, media_id: int, facts: MediaFacts) -> None:
        self._unsaved[media_id] = facts
        try:
            with self._attempt(self._writes):
                await self._inner.save_facts(media_id, facts)
        except DatabaseUnavailable:
            self._counts["refused_saves"] += 1
        else:
            if self._unsaved.get(media_id) is facts:
                del self._unsaved[media_id]

    def _with_unsaved(self, media: Media) -> Media:
        """Lay facts that were refused over a row that lacks them, and offer them again."""
        facts = self._unsaved.get(media.id)
        if facts is None:
            return media
        learned = replace(media, facts=facts)
        if media.known_facts is not None or learned.known_facts is None:
            del self._unsaved[media.id]
            return media
        self._spawn(self._write(media.id, facts))
        return learned

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a task that is this cache's own until it ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._landed)
        return task

    def _landed(self, task: asyncio.Task[Any]) -> None:
        """Let a task go; all who waited may have left, so its error is looked at here."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()
