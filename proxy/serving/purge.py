"""Purge: deletes the renditions of media, by medium or user, all sizes or some."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import structlog

from proxy.domain.errors import DatabaseUnavailable, MediaRowInvalid, StorageError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.render_plan import EVERYONE, PurgeEpochs
from proxy.domain.variant import PurgeEntry, SizeSpec, box_geometry, shape_of, shapes_of
from proxy.runtime.supervised_task import cancel
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.purge_table import PurgeTable, RecordedEpoch
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.renditions.purge_journal import JournalKey, PurgeJournal, UserPurge
from proxy.storage.renditions.tiered_store import TieredStore

# Rows of one transaction.
_PAGE = 500
_DELETE_OLD_EVERY_S = 3600.0

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class PurgeResult(NamedTuple):
    """A medium, and the number of its renditions that were deleted here."""

    media_id: int | None
    """None: the purge of a user, of whom the database did not accept it or list all media."""
    dropped: int
    recorded: bool = True
    """False: the database did not accept the purge. Other servers are purged when it does."""
    error: StorageError | None = None
    """If some renditions may still be on this server's disk: why."""


class PurgeService:
    """Deletes renditions in memory and on disk, voids running writes, informs other servers.

    A medium needs no row, because files may outlive it. A purge can be repeated: what is already
    gone is not an error. If the database does not accept a purge, it is kept in the journal and
    recorded by `retry`, which a background task calls.
    """

    def __init__(
        self,
        *,
        rows: CachedMediaRepository,
        catalogue: SqlMediaRepository,
        table: PurgeTable,
        journal: PurgeJournal,
        store: TieredStore,
        epochs: PurgeEpochs | None = None,
        on_commit: Sequence[Callable[[], object]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use parts that the caller closes. ``epochs`` are those of the planner.

        Each of ``on_commit`` is called after a transaction that other servers should read at once.
        It must return at once.
        """
        self._rows = rows
        self._catalogue = catalogue
        self._table = table
        self._journal = journal
        self._store = store
        self._epochs = epochs or PurgeEpochs()
        self._on_commit = on_commit
        self.resets: list[Callable[[], None]] = []
        """Called after the epoch of a user or of all media has changed, on any server: what was
        derived from earlier plans is out of date."""
        self._clock = clock
        self._threads = ThreadPool("purge-journal", count=1, timeout_s=5.0)
        self._applied: set[JournalKey] = set()
        """The kept purges that this process has applied."""
        self._unwritten: set[PurgeEntry | UserPurge] = set()
        """Purges that neither the database nor the journal has accepted."""
        # asyncio keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deleting: set[asyncio.Task[None]] = set()
        """Deletions that nobody waits for; what they leave is not served."""
        self._kept = 0
        self._delete_old_at = 0.0

    @property
    def unrecorded(self) -> int:
        """The number of purges that other servers do not know yet."""
        return self._kept + len(self._unwritten)

    async def aclose(self) -> None:
        """Wait for what is being written, and end the access to the journal."""
        await cancel(*self._deleting)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._threads.aclose()

    async def medium(self, media_id: int, boxes: Sequence[SizeSpec] = ()) -> PurgeResult:
        """Delete the renditions of a medium in these boxes.

        Without boxes, all are deleted, and the facts of the source as well. A rendition that two
        sizes share, because they have the same pixels, is deleted with either of them.

        Raises:
            StorageError: some may still be there.
        """
        # No medium has such an id, so there is nothing to delete.
        if media_id > MAX_MEDIA_ID:
            return PurgeResult(media_id, 0)
        (result,) = await self._purge((media_id,), boxes)
        if result.error is not None:
            raise result.error
        return result

    async def user(
        self, user_id: int, boxes: Sequence[SizeSpec] = ()
    ) -> AsyncGenerator[PurgeResult, None]:
        """Purge all media of a user in the order of their ids, each as `medium` does.

        Without boxes, all servers stop serving the old renditions before the first result: the
        user's epoch changes. The results are the progress of deleting files and facts.
        A medium that cannot be purged has an error in its result; the others are purged. If the
        database does not accept the new epoch, the purge is repeated when it does. If it cannot
        list the media, those are purged whose rows are cached, and the rest when the database is
        back. In both cases the last result has no id.
        """
        after, accepted = 0, True
        if not boxes and not await self._advance(user_id):
            accepted = False
            # Before the media, which may take long: a restart continues it.
            await self._keep([UserPurge(user_id)])
        try:
            async for page in self._pages(user_id):
                for result in await self._purge(page, boxes):
                    yield result._replace(recorded=result.recorded and accepted)
                after = page[-1]
            if not accepted:
                # Also if the user has no media.
                yield PurgeResult(None, 0, recorded=False)
        except DatabaseUnavailable:
            if accepted:
                await self._keep([UserPurge(user_id, tuple(boxes))])
            known = [one for one in self._rows.media_of_user(user_id) if one > after]
            # In all sizes: which shapes a size has is in the rows that cannot be read.
            for result in await self._purge(known, ()):
                yield result
            yield PurgeResult(None, 0, recorded=False)

    async def user_within(self, user_id: int, limit_s: float) -> tuple[Sequence[PurgeResult], bool]:
        """Purge all media of a user; return the results so far and whether these are all.

        If the database has accepted the new epoch, nothing old is served when this returns. After
        ``limit_s`` the rest of the files and facts is deleted in the background.
        """
        until, results = self._clock() + limit_s, list[PurgeResult]()
        purge = self.user(user_id)
        async for result in purge:
            results.append(result)
            if self._clock() >= until:
                task = asyncio.create_task(self._finish(purge))
                self._deleting.add(task)
                task.add_done_callback(self._deleting.discard)
                return results, False
        return results, True

    async def _finish(self, purge: AsyncGenerator[PurgeResult, None]) -> None:
        counts: Counter[str] = Counter()
        async with aclosing(purge):
            async for result in purge:
                counts["failed" if result.error is not None else "purged"] += 1
        log.info("user_purged", **counts)

    async def everything(self) -> bool:
        """Purge all media; return whether this is recorded.

        Takes the same time for any number of renditions: the epoch changes, which is a part of
        every key. The files are moved, and deleted in the background by `TieredStore`. Facts of
        sources are kept.

        Raises:
            StorageError: files may be left on this server's disk.
        """
        recorded = await self._advance(EVERYONE)
        if not recorded:
            await self._keep([UserPurge(EVERYONE)])
            self._store.skip_objects = True
            self._reset()
        await self._store.clear()
        return recorded

    def advanced(self, epochs: Iterable[RecordedEpoch]) -> Sequence[int]:
        """Use these epochs from now on; return the users of those that are new here."""
        changed = [one.user_id for one in epochs if self._epochs.advance(one.user_id, one.epoch)]
        if EVERYONE in changed:
            # No key of an earlier object is requested any more.
            self._store.skip_objects = False
        if changed:
            self._reset()
        for user_id in changed:
            # No key leads to them any more, so this only frees memory.
            for media_id in self._rows.media_of_user(user_id):
                self._store.memory.purge(media_id)
        return changed

    def _reset(self) -> None:
        for reset in self.resets:
            reset()

    def _committed(self) -> None:
        for call in self._on_commit:
            call()

    async def _advance(self, user_id: int) -> bool:
        try:
            recorded = await self._table.advance(user_id)
        except DatabaseUnavailable as error:
            log.warning("purges_not_recorded", user_id=user_id, cause=repr(error.__cause__))
            return False
        self._committed()
        self.advanced([recorded])
        return True

    async def after_write(
        self, media_id: int, write: Coroutine[Any, Any, _T], *, renditions: bool = True
    ) -> _T:
        """Run a transaction that announces a change of a medium; then apply it on this server.

        Both happen even if the caller is cancelled. Without ``renditions`` only what is cached of
        the row and its texts is out of date.
        """
        return await self._to_the_end(self._after_write(media_id, write, renditions=renditions))

    async def _to_the_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work that goes on if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _after_write(
        self, media_id: int, write: Coroutine[Any, Any, _T], *, renditions: bool
    ) -> _T:
        try:
            return await write
        finally:
            # Also after an error: the outcome of a commit may be unknown.
            self._committed()
            if renditions:
                await self.apply_recorded(media_id)
            else:
                self._rows.changed(media_id)

    async def apply_recorded(self, media_id: int) -> PurgeResult:
        """Delete all renditions of a medium here, after a transaction that announced its purge.

        Facts are kept: their source has not changed. A disk error is in the result and logged; the
        renditions that are left have other keys than the new ones.
        """
        self._rows.changed(media_id)
        try:
            return PurgeResult(media_id, await self._store.purge(media_id, None))
        except StorageError as error:
            log.warning("purge_incomplete", media_id=media_id, cause=error.detail)
            return PurgeResult(media_id, 0, error=error)

    async def retry(self) -> None:
        """Record what the database has not accepted; apply what another process has kept.

        The other process may have ended, or it shares the directory and this process has renditions
        in memory.
        """
        kept = await self._read_journal()
        for key, purge in kept.items():
            if key not in self._applied:
                await self._apply_kept(purge)
        self._applied = set(kept)
        self._kept = len(kept)
        if not kept and not self._unwritten:
            return
        try:
            await self._record_kept(kept)
        except DatabaseUnavailable as error:
            log.debug("purges_not_recorded", purges=self.unrecorded, cause=repr(error.__cause__))

    async def _purge(self, ids: Iterable[int], boxes: Sequence[SizeSpec]) -> list[PurgeResult]:
        entries: list[PurgeEntry] = []
        dropped: list[tuple[int, StorageError | None]] = []
        recorded = True
        try:
            for media_id in ids:
                try:
                    entries.append(await self._entry(media_id, boxes))
                except DatabaseUnavailable:
                    # All sizes of this one and the rest: no further query waits for its timeout.
                    boxes = ()
                    entries.append(PurgeEntry(media_id))
                try:
                    dropped.append((await self._delete(entries[-1]), None))
                except StorageError as error:
                    dropped.append((0, error))
        finally:
            # Also after an error or a cancellation: what is purged here must be purged elsewhere.
            if entries:
                recorded = await self._to_the_end(self._record(entries))
        return [
            PurgeResult(entry.media_id, count, recorded, error)
            for entry, (count, error) in zip(entries, dropped, strict=True)
        ]

    async def _entry(self, media_id: int, boxes: Sequence[SizeSpec]) -> PurgeEntry:
        """Return the purge of a medium in these boxes, by its current row."""
        if not boxes:
            return PurgeEntry(media_id)
        # A cached row may describe an earlier source, whose sizes have other shapes.
        try:
            media = await self._catalogue.find(media_id)
        except MediaRowInvalid:
            # Its renditions may be of an earlier, valid row.
            media = None
        facts = None if media is None else media.known_facts
        if media is None or facts is None:
            # Without the dimensions of the source no file can be assigned to a size.
            return PurgeEntry(media_id)
        # Before the faces were found, crops had other shapes.
        known = [facts] if facts.faces is None else [facts, replace(facts, faces=None)]
        shapes = [shapes_of(boxes, one, media.choices) for one in (*known, *media.fallbacks)]
        # Another server's image with this id may be stored here too; see `proxy.web.forward`.
        forwarded = {shape_of(box_geometry(box)) for box in boxes}
        return PurgeEntry(media_id, frozenset().union(forwarded, *shapes))

    async def _delete(self, entry: PurgeEntry) -> int:
        # Before the renditions: no render that starts from now on may use the old row or facts.
        if entry.shapes is None:
            self._rows.distrust_facts(entry.media_id)
        self._rows.changed(entry.media_id)
        return await self._store.purge(entry.media_id, entry.shapes)

    async def _record(self, entries: Sequence[PurgeEntry]) -> bool:
        """Record purges, or keep them; return whether they are recorded."""
        try:
            await self._write(entries)
        except DatabaseUnavailable as error:
            log.warning("purges_not_recorded", purges=len(entries), cause=repr(error.__cause__))
            await self._keep(entries)
            return False
        return True

    async def _write(self, entries: Sequence[PurgeEntry]) -> None:
        await self._table.record(entries)
        self._committed()
        for entry in entries:
            if entry.shapes is None:
                self._rows.facts_deleted(entry.media_id)
        # By those who write: the table grows only if somebody purges.
        if self._clock() >= self._delete_old_at:
            self._delete_old_at = self._clock() + _DELETE_OLD_EVERY_S
            with suppress(DatabaseUnavailable):
                await self._table.delete_old()

    async def _keep(self, purges: Sequence[PurgeEntry | UserPurge]) -> None:
        for purge in purges:
            try:
                add = partial(self._journal.add, purge)
                self._applied.add(await self._threads.run(add, shielded=True))
            except OSError as error:
                # Kept in memory only: a restart forgets it.
                self._unwritten.add(purge)
                log.error("purge_not_kept", purge=repr(purge), cause=repr(error))  # noqa: TRY400
            else:
                self._kept += 1

    async def _read_journal(self) -> dict[JournalKey, PurgeEntry | UserPurge]:
        try:
            return await self._threads.run(self._journal.read)
        except OSError as error:
            # The store counts and reports a disk that fails.
            log.debug("purge_journal_unreadable", cause=repr(error))
            return {}

    async def _apply_kept(self, purge: PurgeEntry | UserPurge) -> None:
        entries = [purge] if isinstance(purge, PurgeEntry) else []
        if isinstance(purge, UserPurge) and purge.user_id == EVERYONE:
            self._store.skip_objects = True
            self._reset()
            try:
                await self._store.clear()
            except StorageError as error:
                log.warning("purge_incomplete", cause=error.detail)
        elif isinstance(purge, UserPurge):
            entries = [PurgeEntry(one) for one in self._rows.media_of_user(purge.user_id)]
        for entry in entries:
            try:
                await self._delete(entry)
            except StorageError as error:
                # Memory is purged, and the process that kept it has deleted from the disk.
                log.warning("purge_incomplete", media_id=entry.media_id, cause=error.detail)

    async def _record_kept(self, kept: dict[JournalKey, PurgeEntry | UserPurge]) -> None:
        media = {key: one for key, one in kept.items() if isinstance(one, PurgeEntry)}
        entries = [
            *media.values(),
            *(one for one in self._unwritten if isinstance(one, PurgeEntry)),
        ]
        for start in range(0, len(entries), _PAGE):
            await self._write(entries[start : start + _PAGE])
        self._unwritten.difference_update(entries)
        await self._remove(media)
        for key, purge in kept.items():
            if isinstance(purge, UserPurge):
                await self._purge_user_again(purge)
                await self._remove((key,))
        for purge in [one for one in self._unwritten if isinstance(one, UserPurge)]:
            await self._purge_user_again(purge)
            self._unwritten.discard(purge)
        log.info("kept_purges_recorded", purges=len(kept))

    async def _purge_user_again(self, purge: UserPurge) -> None:
        if not purge.boxes:
            self.advanced([await self._table.advance(purge.user_id)])
            self._committed()
        # Nobody has the id `EVERYONE`: that purge was applied here, and has no pages.
        async for page in self._pages(purge.user_id):
            for result in await self._purge(page, purge.boxes):
                if result.error is not None:
                    cause = result.error.detail
                    log.warning("purge_incomplete", media_id=result.media_id, cause=cause)

    async def _remove(self, keys: Iterable[JournalKey]) -> None:
        for key in keys:
            try:
                await self._threads.run(partial(self._journal.remove, key))
            except OSError as error:
                # It is recorded once more, which other servers do not mind.
                log.debug("purge_journal_unreadable", cause=repr(error))
                return
            self._kept = max(0, self._kept - 1)

    async def _pages(self, user_id: int) -> AsyncIterator[Sequence[int]]:
        after = 0
        while page := await self._catalogue.ids_of_user(user_id, after=after, limit=_PAGE):
            yield page
            after = page[-1]
