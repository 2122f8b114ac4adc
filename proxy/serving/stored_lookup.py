"""Look-ups of stored finals: the rows and files of many requests in one thread job.

Each thread hop wakes a thread that competes with the event loop for the interpreter. One hop for
the row, one for the file and SQLAlchemy between them took 2 ms of processor time per request. Here
all requests that arrive while the loop is busy share one hop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from resource import RUSAGE_THREAD, getrusage
from typing import NamedTuple

from proxy.domain.errors import DatabaseUnavailable, MediaRowInvalid, SmartserveError
from proxy.domain.media import MAX_MEDIA_ID, Media, Visibility
from proxy.domain.render_plan import RenderPlan, RenderPlanner
from proxy.domain.request import VariantRequest
from proxy.domain.signature import OPEN_ACCESS, MediaAccess, Scope
from proxy.runtime.supervised_task import cancel
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.renditions.rendition import MemoryRendition
from proxy.storage.renditions.rendition_file import Found
from proxy.storage.renditions.tiered_store import TieredStore

_BATCH = 16
_SLOW = 0.1
"""Share of look-ups that wait for the disk from which on each look-up has its own job, so that none
waits for another one's disk access. While files come from the kernel's memory, more threads than
one only compete for the interpreter: eight cost 1.6 times the processor time of one."""
_SLOW_JOBS = 8
_WEIGHT = 0.1
"""Weight of the last job in the mean share."""
_UNCOUNTED_S = 0.05
"""A look-up that took longer waited for the disk too: FUSE does not count what it reads. Less may
be the time in which other threads had the interpreter."""

Rows = Mapping[int, Media | MediaRowInvalid]
ReadRows = Callable[[Collection[int]], Rows]


class StoredRendition(NamedTuple):
    """What is stored for a plan."""

    plan: RenderPlan
    rendition: MemoryRendition | None
    """The final; None: neither final nor draft was stored."""
    known: bool
    """Whether the row was cached, so the image was requested recently."""
    database_s: float
    """Time that the row took."""
    puts: int
    """`TieredStore.puts` before the look-up: if it has changed, something may be stored now."""
    changes: int
    """`CachedMediaRepository.changes` before the look-up; see `StoredLookup.is_valid`."""


_Since = tuple[int, int]
"""Purges and changed rows, counted."""


class _LookUp:
    """A look-up that has not ended; equal requests share it."""

    __slots__ = ("accept", "known", "media", "media_id", "puts", "since", "waiters", "wanted")

    def __init__(
        self, media_id: int, wanted: VariantRequest, accept: str, *, since: _Since, puts: int
    ) -> None:
        self.media_id = media_id
        self.wanted = wanted
        self.accept = accept
        self.since = since
        self.puts = puts
        self.media: Media | None = None
        self.known = False
        """Whether the row was cached."""
        self.waiters: list[asyncio.Future[StoredRendition | None]] = []


class _Looked(NamedTuple):
    """The result of a thread job."""

    rows: Rows
    error: DatabaseUnavailable | None
    database_s: float
    found: list[tuple[RenderPlan, Found | OSError, bool] | None]
    """For each look-up its plan, if there is one, its file, and whether it or a draft exists."""
    waited: int
    """Look-ups that waited for the disk: the kernel did not have all that they read in memory."""


class StoredLookup:
    """Finds stored finals. What it does not find, `Delivery` finds or renders."""

    def __init__(
        self,
        *,
        rows: CachedMediaRepository,
        read_rows: ReadRows | None,
        planner: RenderPlanner,
        store: TieredStore,
        access: MediaAccess = OPEN_ACCESS,
    ) -> None:
        """``read_rows`` reads rows in a thread; None: the database is a server."""
        self._rows = rows
        self._read_rows = read_rows
        self._planner = planner
        self._store = store
        self._access = access
        self._open: dict[tuple[int, VariantRequest, str], _LookUp] = {}
        """Look-ups that have not ended."""
        self._waiting: deque[_LookUp] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._slow = 0.0
        """Share of look-ups that waited for the disk, lately."""

    async def aclose(self) -> None:
        """Cancel the look-ups."""
        await cancel(*self._tasks)

    def find(
        self, media_id: int, wanted: VariantRequest, accept: str
    ) -> asyncio.Future[StoredRendition | None]:
        """Return the final of a plain request, or that nothing is stored.

        None says nothing: the row may be missing, the image private or not ready, its faces
        unknown, the final too long for memory, a draft stored, or the database may fail.
        """
        waiter: asyncio.Future[StoredRendition | None] = asyncio.get_running_loop().create_future()
        if media_id > MAX_MEDIA_ID:
            waiter.set_result(None)
            return waiter
        lookup = self._open.get((media_id, wanted, accept))
        # One that began before a purge or a change may have read what is not valid any more.
        since = self._store.purges, self._rows.changes
        if lookup is None or lookup.since != since:
            lookup = _LookUp(media_id, wanted, accept, since=since, puts=self._store.puts)
            lookup.media = self._rows.current(media_id)
            lookup.known = lookup.media is not None
            # Without a thread job for a request that the handler refuses.
            refused = lookup.media is not None and self._permitted(lookup.media, wanted) is None
            if refused or (not lookup.known and not self._rows.may_read(media_id)):
                waiter.set_result(None)
                return waiter
            self._open[media_id, wanted, accept] = lookup
            self._waiting.append(lookup)
            if not self._scheduled:
                self._scheduled = True
                # Requests that are handled in the same turn of the loop belong to the same job.
                asyncio.get_running_loop().call_soon(self._start)
        lookup.waiters.append(waiter)
        return waiter

    def is_valid(self, found: StoredRendition) -> bool:
        """Return whether a result is that of a look-up that would begin now.

        If its image was changed or purged, nobody may see it any more, or it has another rendition.
        """
        since = found.changes
        return self._rows.changes == since or not self._rows.changed_since(
            found.plan.media.id, since
        )

    def _start(self) -> None:
        self._scheduled = False
        size, jobs = (1, _SLOW_JOBS) if self._slow > _SLOW else (_BATCH, 1)
        while self._waiting and len(self._tasks) < jobs:
            batch = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            task = asyncio.create_task(self._run(batch))
            self._tasks.add(task)

    async def _run(self, batch: list[_LookUp]) -> None:
        """Look up a batch and give all its waiters their results."""
        task = asyncio.current_task()
        results: list[StoredRendition | None] = [None] * len(batch)
        try:
            if self._read_rows is None:
                await self._read_from_server(batch)
                results = await self._look_up(batch, ())
            else:
                results = await self._look_up(batch, [one for one in batch if one.media is None])
        except SmartserveError:
            # The handler meets the same error and reports it.
            pass
        finally:
            for one, result in zip(batch, results, strict=True):
                self._end(one, result)
            self._tasks.discard(task)
            self._start()

    async def _read_from_server(self, batch: list[_LookUp]) -> None:
        unknown = {one.media_id for one in batch if one.media is None}
        rows = await self._rows.find_many(unknown) if unknown else {}
        for one in batch:
            one.media = one.media or rows.get(one.media_id)

    async def _look_up(
        self, batch: list[_LookUp], unknown: Collection[_LookUp]
    ) -> list[StoredRendition | None]:
        since = self._store.purges
        reading = self._rows.begin({one.media_id for one in unknown})
        done: _Looked | None = None
        try:
            done = await self._store.run(partial(self._in_thread, batch, tuple(reading)))
        finally:
            if done is None:
                self._rows.finish(reading, {}, complete=False)
            else:
                self._rows.finish(reading, done.rows, error=done.error)
        if done is None:
            return [None] * len(batch)
        self._slow += (done.waited / len(batch) - self._slow) * _WEIGHT
        results: list[StoredRendition | None] = []
        for one, found in zip(batch, done.found, strict=True):
            results.append(None)
            if found is not None:
                plan, file, exists = found
                rendition = self._store.take(plan.variant, file, since=since)
                if rendition is not None or not exists:
                    results[-1] = StoredRendition(
                        plan, rendition, one.known, done.database_s, one.puts, one.since[1]
                    )
        return results

    def _in_thread(self, batch: list[_LookUp], unknown: Collection[int]) -> _Looked:
        began, error = time.perf_counter(), None
        reads = getrusage(RUSAGE_THREAD).ru_inblock
        rows: Rows = {}
        if unknown and self._read_rows is not None:
            try:
                rows = self._read_rows(unknown)
            except DatabaseUnavailable as failed:
                error = failed
        database_s = time.perf_counter() - began
        found, waited = [], 0
        for one in batch:
            found.append(self._find(one, one.media or rows.get(one.media_id)))
            before, reads = reads, getrusage(RUSAGE_THREAD).ru_inblock
            waited += reads > before
        if time.perf_counter() - began > _UNCOUNTED_S * len(batch):
            waited = len(batch)
        return _Looked(rows, error, database_s, found, waited)

    def _find(
        self, lookup: _LookUp, media: Media | MediaRowInvalid | None
    ) -> tuple[RenderPlan, Found | OSError, bool] | None:
        if not isinstance(media, Media) or not media.servable or media.known_facts is None:
            return None
        wanted = self._permitted(media, lookup.wanted)
        if wanted is None:
            return None
        plan = self._planner.plan(media, media.known_facts, wanted, lookup.accept)
        # What is stored was cropped before faces were detected.
        if plan.provisional:
            return None
        return plan, *self._store.look_up(plan.stages)

    def _permitted(self, media: Media, wanted: VariantRequest) -> VariantRequest | None:
        """Return what is planned of a request, or None if it may not see the image."""
        # Not `is_private`, a call into another module for each request.
        visibility = media.choices.visibility or self._access.defaults.get(media.data_type)
        if visibility is Visibility.PRIVATE:
            opened = self._access.opens(Scope.RENDITION, media.id, wanted.signature)
            return wanted if opened else None
        return wanted if wanted.signature is None else replace(wanted, signature=None)

    def _end(self, lookup: _LookUp, result: StoredRendition | None) -> None:
        key = lookup.media_id, lookup.wanted, lookup.accept
        if self._open.get(key) is lookup:
            del self._open[key]
        for waiter in lookup.waiters:
            if not waiter.done():
                waiter.set_result(result)
