"""Applies the purges of other servers and the changes of rows, within about a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import structlog

from proxy.domain.errors import BucketPurgePending, DatabaseUnavailable, StorageError
from proxy.domain.media import EPOCH, utc_timestamp
from proxy.domain.render_plan import EVERYONE
from proxy.domain.variant import PurgeEntry
from proxy.runtime.thread_pool import ThreadPool
from proxy.serving.purge import PurgeService
from proxy.storage.database.purge_table import MAX_CHANGES, PurgeTable, RecordedPurge
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.renditions.purge_journal import PurgeJournal
from proxy.storage.renditions.tiered_store import TieredStore

OVERLAP_S = 30.0
"""Minimum time that is read again. A purge becomes visible up to this long after its time."""

_SYNC_EVERY_S = 1.0
# Between two reads by wake-up, so that many purges cause at most 20 reads a second.
_REST_S = 0.05
# What a wake-up is about was committed a moment ago. If its transaction took longer, `sync` has it.
_RECENT_S = 2.0
# Rows that changed in the last two seconds, up to which each is read again by every wake-up.
_FEW = 20
_PAGE = 1000
_SAVE_POSITION_EVERY_S = 30.0
# Without an index on `updated_at` the query for changed rows reads the whole table. If that is
# slow, it may take only this part of the time.
_SLOW_S, _SLOW_PART = 0.25, 0.02

_ADVICE = "changes take effect late; run 'smartserve db upgrade --indexes'"

log = structlog.get_logger(__name__)


class PurgeFeed:
    """Reads the table of purges, and applies each to memory, disk and cached rows.

    `run` calls `sync` every second, and reads recent entries as soon as `wake` is called. The
    position is stored beside the renditions, so a server that was away applies what it missed
    before it is ready. All times and ids are the database's.
    """

    def __init__(
        self,
        *,
        table: PurgeTable,
        purger: PurgeService,
        rows: CachedMediaRepository,
        journal: PurgeJournal,
        store: TieredStore,
        query_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use parts that the caller closes; ``query_timeout_s`` is that of the database."""
        self._table = table
        self._purger = purger
        self._rows = rows
        self._journal = journal
        self._store = store
        # A transaction that takes longer is rolled back, so nothing becomes visible later.
        self._overlap_s = max(OVERLAP_S, 2 * query_timeout_s)
        self._clock = clock
        self._threads = ThreadPool("purge-position", count=1, timeout_s=5.0)
        # Seconds since 1970 on the database's clock: purges before it are applied.
        self._position: float | None = None
        self._saved_at = -_SAVE_POSITION_EVERY_S
        self._epochs_read = False
        self._to_clear = False
        """Whether all renditions must be deleted, because everything was purged."""
        self._seen: dict[int, float] = {}
        """The times of applied purges by their id, as far as they are read again."""
        self._versions: Mapping[int, str] = {}
        """The changed rows of the last read, with their ``updated_at``."""
        self._changes_until: float | None = None
        self._changes_due = 0.0
        self._slow = False
        self._began = clock()
        self._synced_at: float | None = None
        self._failing = False
        self._woken = asyncio.Event()
        self._counts = {"applied": 0, "changed": 0, "wake_ups": 0}

    async def aclose(self) -> None:
        """Store the position; call it after the last `sync`."""
        await self._save_position()
        await self._threads.aclose()

    def wake(self) -> None:
        """Make `run` read at once what was committed before this call."""
        self._woken.set()

    async def run(self) -> None:
        """Call `sync` every second, and between the calls react to `wake`, until cancelled."""
        due = self._clock() + _SYNC_EVERY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clock())):
                    await self._woken.wait()
            # Before the read: a wake-up during it may be about a later commit.
            woken = self._woken.is_set()
            self._woken.clear()
            if self._clock() >= due:
                await self.sync()
                due = self._clock() + _SYNC_EVERY_S
            elif woken:
                self._counts["wake_ups"] += 1
                await self._sync_recent()
                await asyncio.sleep(_REST_S)

    async def sync(self) -> None:
        """Apply what others have purged and changed since the last call; retry own purges.

        A database that fails is logged once and raises nothing; `check` and the lag report it.
        """
        began = self._clock()
        await self._purger.retry()
        try:
            now = await self._table.now()
            complete = await self._sync_purges(now)
            await self._sync_changes(now)
        except DatabaseUnavailable as error:
            if not self._failing:
                log.warning("purges_not_read", cause=repr(error.__cause__ or error))
            self._failing = True
            return
        self._failing = False
        if complete:
            self._synced_at = began

    async def check(self) -> None:
        """Return if the purges that this server missed are applied.

        Raises:
            StorageError: they are not yet.
        """
        if self._synced_at is None:
            raise StorageError("the purges of other servers have not been applied yet")

    def statistics(self) -> Mapping[str, float]:
        """Return the lag in seconds, and how many purges and changes were applied or are kept."""
        since = self._began if self._synced_at is None else self._synced_at
        return {
            "lag_s": self._clock() - since,
            "unrecorded": self._purger.unrecorded,
            **self._counts,
        }

    async def _sync_recent(self) -> None:
        """Apply what was committed in the last seconds; the next `sync` does it again in full."""
        # `sync` reports a database or a disk that fails.
        with suppress(DatabaseUnavailable):
            now = await self._table.now()
            await self._read_purges(now - _RECENT_S)
            # Without an index on `updated_at` the query is too slow to be run more often.
            if not self._slow:
                changed = await self._apply_changes(now, _RECENT_S, again=_FEW)
                self._versions = {**self._versions, **changed}

    async def _sync_purges(self, now: float) -> bool:
        """Apply the purges of other servers; return whether all could be applied completely."""
        position = await self._load_position(now)
        # Between two reads of one process the monotonic clock counts: the other one may be set.
        away_s = now - position if self._synced_at is None else self._clock() - self._synced_at
        if position and away_s > self._table.retention_s:
            # The table does not contain all that was missed.
            if not self._to_clear:
                log.warning("renditions_cleared", away_days=round(away_s / 86_400, 1))
            # Cleared, and tried again if the disk fails, before the purges are read.
            self._to_clear, position = True, now
        # A database whose clock went back records purges with earlier times.
        complete = await self._read_purges(min(position, now) - self._overlap_s)
        # If a purge failed on disk, it is read and applied again.
        if complete:
            # While deletions in the bucket fail, the position stays before their purges. This
            # process repeats them by itself; a restarted one has to read the purges again, also its
            # own.
            self._position = position if self._store.bucket_purges_failed else now
            limit = min(position, now) - self._overlap_s
            self._seen = {key: at for key, at in self._seen.items() if at >= limit}
            if self._clock() - self._saved_at >= _SAVE_POSITION_EVERY_S:
                await self._save_position()
        return complete

    async def _read_purges(self, since: float) -> bool:
        """Apply all purges from a time on; return whether all could be applied completely."""
        complete, after = await self._read_epochs(since), 0
        while page := await self._table.read(since, after=after, limit=_PAGE):
            for purge in page:
                complete &= await self._apply(purge)
            after = page[-1].id
            if len(page) < _PAGE:
                break
        return complete

    async def _read_epochs(self, since: float) -> bool:
        """Use the epochs that began from a time on, the first time all of them.

        Return False if files that everybody has purged could not be deleted.
        """
        recorded = await self._table.epochs(since if self._epochs_read else 0.0)
        changed = self._purger.advanced(recorded)
        self._epochs_read = True
        # At the start: files of an earlier purge were deleted then, or are evicted in time.
        self._to_clear |= EVERYONE in changed and any(
            one.user_id == EVERYONE and one.purged_at >= since for one in recorded
        )
        if self._to_clear:
            try:
                await self._store.clear()
            except StorageError as error:
                log.warning("purge_incomplete", cause=error.detail)
                return False
            self._to_clear = False
            self._counts["applied"] += 1
        return True

    async def _apply(self, purge: RecordedPurge) -> bool:
        if purge.id in self._seen:
            return True
        entry: PurgeEntry = purge.entry
        # Before the renditions: no render that starts from now on may use the old row or facts.
        self._rows.changed(entry.media_id)
        try:
            if entry.shapes is None or entry.shapes:
                await self._store.purge(entry.media_id, entry.shapes)
        except BucketPurgePending as error:
            # The purge counts as applied. A second attempt would delete renditions that were made
            # after the first.
            log.warning("purge_incomplete", media_id=entry.media_id, cause=error.detail)
        except StorageError as error:
            # Memory is purged.
            log.warning("purge_incomplete", media_id=entry.media_id, cause=error.detail)
            return False
        self._seen[purge.id] = purge.purged_at
        self._counts["applied"] += 1
        return True

    async def _sync_changes(self, now: float) -> None:
        began = self._clock()
        if began < self._changes_due:
            return
        until = now if self._changes_until is None else min(self._changes_until, now)
        versions = await self._apply_changes(now, now - until + self._overlap_s)
        await self._slow_down(self._clock() - began)
        self._versions = versions
        self._changes_until = now

    async def _apply_changes(
        self, now: float, age_s: float, *, again: int = MAX_CHANGES
    ) -> Mapping[int, str]:
        """Read the cached rows that changed in the last ``age_s``; return these changes.

        Those that may have changed once more since they were read are read again if there are at
        most ``again`` of them.
        """
        versions, unsettled = await self._table.changes(now - age_s, now=now)
        if len(versions) >= MAX_CHANGES:
            # There may be more. Each cached row is read again when it is next used.
            self._rows.expire_all()
        for media_id, version in versions.items():
            seen = self._versions.get(media_id) == version or self._is_cached(media_id, version)
            known = seen and not (media_id in unsettled and len(unsettled) <= again)
            # Most changed rows are not cached, or were read after the change.
            if not known and await self._rows.refresh(media_id):
                self._rows.changed(media_id)
                self._counts["changed"] += 1
        return versions

    def _is_cached(self, media_id: int, version: str) -> bool:
        """Return whether the cached row has this ``updated_at``."""
        cached, changed_at = self._rows.peek(media_id), utc_timestamp(version)
        # The epoch stands for every value that is no timestamp.
        return cached is not None and cached[0].updated_at == changed_at != EPOCH

    async def _slow_down(self, took_s: float) -> None:
        # With an index the query takes a millisecond, or longer because the machine is busy.
        slow = took_s > _SLOW_S and not await self._table.changes_are_indexed()
        self._changes_due = self._clock() + took_s / _SLOW_PART if slow else 0.0
        if slow and not self._slow:
            log.warning("changed_rows_read_slowly", took_s=round(took_s, 2), advice=_ADVICE)
        self._slow = slow

    async def _load_position(self, now: float) -> float:
        if self._position is None:
            try:
                stored = await self._threads.run(self._journal.position)
            except OSError:
                # The disk fails, so nothing on it is served; later it is read as a whole.
                return 0.0
            self._position = now if stored is None else stored
        return self._position

    async def _save_position(self) -> None:
        if not self._position:
            return
        self._saved_at = self._clock()
        try:
            await self._threads.run(partial(self._journal.set_position, self._position))
        except OSError as error:
            # An older position only means that more purges are applied again after a restart.
            log.debug("purge_position_not_saved", cause=repr(error))
