"""Caches rows in memory, and serves them while they are read again or the database fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import structlog
from cachetools import LRUCache, TTLCache

from proxy.domain.errors import DatabaseUnavailable, MediaRowInvalid, SmartserveError
from proxy.domain.media import Face, Media, MediaFacts
from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.runtime.supervised_task import cancel
from proxy.settings import DatabaseSettings
from proxy.storage.database import MediaRepository

_COUNTS = ("hits", "misses", "negative_hits", "stale_answers", "refused_saves")
_EXPIRED = float("-inf")
_NO_ROW = (None, _EXPIRED)
_COLLECT_S = 0.05
"""Time in which expired rows are collected for one query: at 10,000 requests per second a query
for hundreds of rows instead of one for each."""
_BATCH = 100
"""Rows of one query. They take about 2 ms of the event loop; 500 delay other requests by 9 ms."""
_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class _Unsaved(NamedTuple):
    """Facts that the database has not stored yet."""

    facts: MediaFacts
    since: float
    """Time on the database's clock before the source was opened."""


class CachedMediaRepository:
    """A `MediaRepository` that caches the rows of another one.

    A row is fresh for ``row_ttl_s``. For another ``row_stale_s`` the stale row is returned, and one
    background query reads it again together with other stale rows. After `invalidate` it is not
    returned. Up to ``max_rows`` rows are kept
    longer and returned while the database fails. A missing row is cached for ``negative_ttl_s``.

    Facts that the database rejects are kept in memory: readers get them, and they are written again
    when the row is next read. Reads and writes have separate circuit breakers, so an account
    without write privileges can still serve images.
    """

    def __init__(
        self,
        inner: MediaRepository,
        settings: DatabaseSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap ``inner``, which the caller closes."""
        self._inner = inner
        self._settings = settings
        self._clock = clock
        self.invalidators: list[Callable[[int], None]] = [self.invalidate]
        """Called with a media id whose row, source or renditions changed, in any process.

        Later subsystems append their caches.
        """
        self.changes = 0
        """Counts invalidated rows. What was read before one may be out of date."""
        self._invalidations: LRUCache[int, int] = LRUCache(settings.max_rows)
        self._all_changed_at = 0
        """Value of `changes` at the last purge of a user or of everything."""
        self._now = 0.0
        # With the time of the clock until which a row is fresh.
        self._rows: LRUCache[int, tuple[Media, float]] = LRUCache(settings.max_rows)
        self._absent: TTLCache[int, bool] = TTLCache(
            settings.max_rows, settings.negative_ttl_s, timer=clock
        )
        self._unsaved: LRUCache[int, _Unsaved] = LRUCache(settings.max_rows)
        # Media whose stored facts are void although the database still has them.
        self._distrusted: LRUCache[int, None] = LRUCache(settings.max_rows)
        self._reads = CircuitBreaker("database_reads", pause_s=settings.breaker_s, clock=clock)
        self._writes = CircuitBreaker("database_writes", pause_s=settings.breaker_s, clock=clock)
        self._queries: dict[int, asyncio.Task[Media | None]] = {}
        # Without a TTL nothing is cached, so nothing may be stale either.
        self._stale_s = settings.row_stale_s if settings.row_ttl_s else 0.0
        self._due: dict[int, None] = {}
        """Rows that were returned stale and are not being read yet."""
        self._refreshing: asyncio.Task[None] | None = None
        self._batches: list[set[int]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counts: Counter[str] = Counter()

    async def aclose(self) -> None:
        """Cancel the running queries and their callers."""
        await cancel(*self._tasks)

    async def find(self, media_id: int) -> Media | None:
        """Return the row with its facts, or None; while the database fails, the last known row.

        Simultaneous calls for one row share one query. A cancelled call does not cancel it.
        """
        media = self.current(media_id)
        if media is not None:
            return media
        if media_id in self._absent:
            self._counts["negative_hits"] += 1
            return None
        self._counts["misses"] += 1
        try:
            return await asyncio.shield(self._query(media_id))
        except DatabaseUnavailable:
            # Read again: the row may have been cached, or dropped, during the query.
            media, _ = self._rows.get(media_id, _NO_ROW)
            if media is None:
                raise
            return self._stale(media)

    def current(self, media_id: int) -> Media | None:
        """Return the row that `find` returns without a query, and count it; None if there is none.

        A stale row is read again in the background.
        """
        media, valid_until = self._rows.get(media_id, _NO_ROW)
        if media is None:
            return None
        now = self._clock()
        if now < valid_until:
            self._counts["hits"] += 1
            return media
        # While the database fails, no caller waits for its timeout if there is an older row.
        if self._reads.failing:
            self._counts["misses"] += 1
            return self._stale(media)
        # Never after `invalidate`, which has set the time to minus infinity.
        if now < valid_until + self._stale_s:
            self._counts["hits"] += 1
            self._refresh_later(media_id)
            return media
        return None

    def may_read(self, media_id: int) -> bool:
        """Return whether a row that is not `current` can be read by `begin` and `finish`.

        If not, only `find` knows what to return: a missing row, other facts, or an error.
        """
        return not (
            self._reads.failing
            or media_id in self._absent
            or media_id in self._queries
            or media_id in self._distrusted
            or media_id in self._unsaved
        )

    def begin(self, media_ids: Collection[int]) -> set[int]:
        """Register rows that the caller is about to read; it then calls `finish` in any case.

        The result is the set of those whose row may be cached: one that changes is removed.
        """
        self._counts["misses"] += len(media_ids)
        return self._register(media_ids)

    def _register(self, media_ids: Collection[int]) -> set[int]:
        batch = set(media_ids)
        self._batches.append(batch)
        return batch

    def finish(
        self,
        batch: set[int],
        found: Mapping[int, Media | MediaRowInvalid],
        *,
        error: DatabaseUnavailable | None = None,
        complete: bool = True,
    ) -> None:
        """Cache the rows that `begin` has registered.

        Those that were not found are missing. Without ``complete`` nothing is known: they were not
        read, because of an ``error`` or another reason.
        """
        # By identity: two batches may be equal.
        self._batches = [one for one in self._batches if one is not batch]
        if error is not None:
            self._reads.trip(type(error).__name__)
        if error is not None or not complete:
            return
        for media_id in batch:
            media = found.get(media_id)
            if isinstance(media, MediaRowInvalid):
                # Not the row that is cached; the next `find` raises the reason.
                self._expire(media_id)
            else:
                self._cache(media_id, None if media is None else self._own(media))

    def _refresh_later(self, media_id: int) -> None:
        self._due[media_id] = None
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._spawn(self._refresh_due())

    async def _refresh_due(self) -> None:
        """Read the rows that were returned stale, many by one query."""
        while self._due:
            if len(self._due) < _BATCH:
                await asyncio.sleep(_COLLECT_S)
            ids = list(islice(self._due, _BATCH))
            for media_id in ids:
                del self._due[media_id]
            batch, found = self._register(ids), None
            try:
                with self._attempt(self._reads):
                    found = await self._inner.find_many(ids)
            except DatabaseUnavailable:
                # From now on `current` returns old rows and sends single queries.
                self._due.clear()
            except MediaRowInvalid:
                # Each is read alone by the next `find`, which raises the reason for the bad ones.
                for media_id in tuple(batch):
                    self._expire(media_id)
            finally:
                self.finish(batch, found or {}, complete=found is not None)

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, Media]:
        """Return rows by id; those that are not cached are read by one query.

        An absent id has no row, or its row cannot be read; `find` then raises the reason.
        """
        self._start_batch(media_ids)
        found = await asyncio.gather(*map(self.find, media_ids), return_exceptions=True)
        return {media.id: media for media in found if isinstance(media, Media)}

    def _start_batch(self, media_ids: Collection[int]) -> None:
        """Start one query for the rows that are not cached; `find` waits for its result."""
        missing = [
            media_id
            for media_id in media_ids
            if self.peek(media_id) is None
            and media_id not in self._absent
            and media_id not in self._queries
        ]
        # While the database fails, the breaker lets one call pass, and each row may be an old one.
        if len(missing) < 2 or self._reads.failing:  # noqa: PLR2004 - one row needs no batch
            return
        batch = self._spawn(self._inner.find_many(missing))
        for media_id in missing:
            self._queries[media_id] = self._spawn(self._read(media_id, batch))

    async def _row(
        self, media_id: int, batch: asyncio.Task[Mapping[int, Media]] | None
    ) -> Media | None:
        if batch is not None:
            try:
                media = (await asyncio.shield(batch)).get(media_id)
            # A row that cannot be read spoils the query of all: each one is then read alone.
            except MediaRowInvalid:
                media = None
            else:
                return media
        return await self._inner.find(media_id)

    def peek(self, media_id: int) -> tuple[Media, float] | None:
        """Return a row and the time of the clock until which `find` would return it unchanged.

        Return None if `find` would run a query. Does not count as a hit.
        """
        media, valid_until = self._rows.get(media_id, _NO_ROW)
        # While reads fail, an expired row is returned until the breaker allows a query.
        until = max(valid_until, self._reads.open_until)
        return (media, until) if media is not None and self._clock() < until else None

    def changed(self, media_id: int) -> None:
        """Call all `invalidators`, of which `invalidate` is the first."""
        for invalidate in self.invalidators:
            invalidate(media_id)

    def invalidate(self, media_id: int) -> None:
        """Make the next `find` read a row again; until then it is served if the database fails."""
        self.changes += 1
        self._invalidations[media_id] = self.changes
        self._unregister(media_id)
        for cache in (self._absent, self._unsaved):
            cache.pop(media_id, None)
        self._expire(media_id)

    def last_invalidation(self, media_id: int) -> int:
        """Return the value of `changes` at the last invalidation of a row, or 0 if unknown."""
        return self._invalidations.get(media_id, 0)

    def purged_many(self) -> None:
        """Count a purge of a user or of everything, which leaves the rows valid."""
        self.changes += 1
        self._all_changed_at = self.changes

    def changed_since(self, media_id: int, changes: int) -> bool:
        """Return whether a row or its renditions were invalidated after `changes` had this value.

        True also if so many others were that this one may have been forgotten.
        """
        if self.changes - changes >= self._invalidations.maxsize:
            return True
        return max(self._all_changed_at, self._invalidations.get(media_id, 0)) > changes

    def _unregister(self, media_id: int) -> None:
        """Keep the results of running queries for a row from being cached."""
        self._queries.pop(media_id, None)
        for batch in self._batches:
            batch.discard(media_id)

    def _expire(self, media_id: int) -> None:
        media, _ = self._rows.get(media_id, _NO_ROW)
        if media is not None:
            self._rows[media_id] = media, _EXPIRED

    def expire_all(self) -> None:
        """Invalidate all rows, and forget which ones are missing."""
        for media_id in (*self._queries, *self._rows, *chain(*self._batches)):
            self.invalidate(media_id)
        self._absent.clear()

    async def refresh(self, media_id: int) -> bool:
        """Read a cached row again; return whether it differs from the one that was cached.

        Facts are not compared. Return False if the row is not cached.

        Raises:
            DatabaseUnavailable: the row is served as it was cached.
        """
        # It exists now, or its next `find` finds out that it does not.
        self._absent.pop(media_id, None)
        if media_id not in self._rows:
            # A running query may have read the row before the change.
            self._unregister(media_id)
            return False
        try:
            found = await self._inner.find(media_id)
        # A row that cannot be read is not the one that is cached; `find` raises the reason.
        except (MediaRowInvalid, ValueError, TypeError, LookupError):
            found = None
        media, _ = self._rows.get(media_id, _NO_ROW)
        if media is None or (found and replace(found, facts=None) == replace(media, facts=None)):
            return False
        self.invalidate(media_id)
        return True

    def media_of_user(self, user_id: int) -> Sequence[int]:
        """Return the ids of a user's cached rows, ascending."""
        return sorted(key for key, (media, _) in self._rows.items() if media.user_id == user_id)

    def cached_ids(self) -> Sequence[int]:
        """Return the ids of all cached rows."""
        return list(self._rows)

    def cached_row(self, media_id: int) -> Media | None:
        """Return a row as it is cached, however old it is, without counting it."""
        return self._rows.get(media_id, _NO_ROW)[0]

    def distrust_facts(self, media_id: int) -> None:
        """Ignore the facts that the database has of a medium, until others are saved."""
        self._distrusted[media_id] = None
        self._unsaved.pop(media_id, None)
        self._set_facts(media_id, None)

    def facts_deleted(self, media_id: int) -> None:
        """Trust the database again: it has deleted the facts."""
        self._distrusted.pop(media_id, None)
        # A running query may have read the old facts.
        self._unregister(media_id)

    async def now(self) -> float:
        """Return the time on the database's clock, or the last known one if the database fails."""
        with suppress(DatabaseUnavailable), self._attempt(self._reads):
            self._now = await self._inner.now()
        return self._now

    async def save_facts(self, media_id: int, facts: MediaFacts, *, since: float) -> bool:
        """Store facts, which readers see at once; return False if they are out of date.

        If the database fails, this is counted and not raised: memory serves them.
        """
        self._set_facts(media_id, facts)
        valid = await self._write(media_id, _Unsaved(facts, since))
        if valid:
            # Again, because a query that began meanwhile may have cached the row as it was.
            self._set_facts(media_id, facts)
        return valid

    def faces_found(self, media_id: int, content_hash: str, faces: Sequence[Face]) -> None:
        """Add the faces of a content to the cached row; the caller has stored them."""
        media, _ = self._rows.get(media_id, _NO_ROW)
        if media is not None and media.facts and media.facts.content_hash == content_hash:
            self._set_facts(media_id, replace(media.facts, faces=tuple(faces)))

    def statistics(self) -> Mapping[str, float]:
        """Return answers by kind, rejected saves, cached items, and 1 while reads fail."""
        return {
            **{name: self._counts[name] for name in _COUNTS},
            "items": len(self._rows),
            "negative_items": len(self._absent),
            "unsaved_items": len(self._unsaved),
            "failing": int(self._reads.failing),
        }

    def _stale(self, media: Media) -> Media:
        """Return a row of unknown age, and query the database in the background."""
        self._counts["stale_answers"] += 1
        if not self._reads.open:
            self._query(media.id)
        return media

    def _query(self, media_id: int) -> asyncio.Task[Media | None]:
        """Return the running query for a row, or start one."""
        query = self._queries.get(media_id)
        if query is None:
            query = self._queries[media_id] = self._spawn(self._read(media_id))
        return query

    async def _read(
        self, media_id: int, batch: asyncio.Task[Mapping[int, Media]] | None = None
    ) -> Media | None:
        query = asyncio.current_task()
        try:
            with self._attempt(self._reads):
                media = await self._row(media_id, batch)
            if media is not None:
                media = self._own(media)
            # A write during the query has unregistered it: its result may be out of date.
            if self._queries.get(media_id) is query:
                self._cache(media_id, media)
            return media
        finally:
            if self._queries.get(media_id) is query:
                del self._queries[media_id]

    def _own(self, media: Media) -> Media:
        """Return a row as the database has it with the facts that this process trusts."""
        if media.id in self._distrusted:
            media = replace(media, facts=None)
        return self._with_unsaved(media)

    def _cache(self, media_id: int, media: Media | None) -> None:
        if media is not None:
            self._rows[media_id] = media, self._clock() + self._settings.row_ttl_s
        else:
            self._rows.pop(media_id, None)
            # Cached for seconds only: the row may be about to be inserted.
            self._absent[media_id] = True

    @contextmanager
    def _attempt(self, breaker: CircuitBreaker) -> Iterator[None]:
        # A plain attribute: while the database works, the breaker is not called.
        if breaker.failing and breaker.open:
            raise DatabaseUnavailable(
                "The database has just failed. Retry later.",
                retry_after_s=self._settings.retry_after_s,
            )
        try:
            with breaker.trial() if breaker.failing else nullcontext():
                yield
        # Other errors and a cancellation do not show whether the database works.
        except DatabaseUnavailable as error:
            breaker.trip(type(error).__name__)
            raise
        else:
            if breaker.failing:
                breaker.succeed()

    def _set_facts(self, media_id: int, facts: MediaFacts | None) -> None:
        """Change the cached row; unregister a running query, which may have read the old one."""
        self._unregister(media_id)
        media, valid_until = self._rows.get(media_id, _NO_ROW)
        if media is not None:
            self._rows[media_id] = replace(media, facts=facts), valid_until

    async def _write(self, media_id: int, unsaved: _Unsaved) -> bool:
        """Write facts; return False if the medium was purged or its row changed meanwhile."""
        self._unsaved[media_id] = unsaved
        stored = None
        try:
            with self._attempt(self._writes):
                stored = await self._inner.save_facts(media_id, unsaved.facts, since=unsaved.since)
        except DatabaseUnavailable:
            self._counts["refused_saves"] += 1
        if stored is False:
            self.invalidate(media_id)
        # An invalidation removes the entry, and newer facts replace it: neither may be undone here.
        valid = self._unsaved.get(media_id) is unsaved
        if valid and stored:
            del self._unsaved[media_id]
            self._distrusted.pop(media_id, None)
        return valid

    def _with_unsaved(self, media: Media) -> Media:
        """Add unsaved facts to a row that has none, and write them again."""
        unsaved = self._unsaved.get(media.id)
        if unsaved is None:
            return media
        with_facts = replace(media, facts=unsaved.facts)
        # The facts are obsolete if the row has newer ones, or if its file has changed.
        if media.known_facts is not None or with_facts.known_facts is None:
            del self._unsaved[media.id]
            return media
        self._spawn(self._write(media.id, unsaved))
        return with_facts

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        # asyncio keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # The error is retrieved here, because every caller may have been cancelled.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SmartserveError):
            log.error("row_query_failed", exc_info=error)
