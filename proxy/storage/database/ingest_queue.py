"""The queue of the ingest workers; see `proxy.storage.database.leased_writer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import (
    ColumnElement,
    Insert,
    Row,
    and_,
    delete,
    exists,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import RowRejected
from proxy.domain.media import DataType, MediaStatus, utc_timestamp
from proxy.domain.upload import (
    ItemState,
    Lease,
    LeasedItem,
    Step,
    StepRecord,
    StepState,
    UnusableUpload,
    Upload,
)
from proxy.storage.database.driver_errors import driver_text
from proxy.storage.database.leased_writer import (
    DONE,
    INGEST_LEASES,
    RELEASED,
    TAKEOVERS,
    LeasedWriter,
    add_to_total,
)
from proxy.storage.database.tables import (
    DatabaseClock,
    ingest_items,
    media_files,
    processing_checklist,
    raw,
)

_items, _files, _steps = ingest_items.c, media_files.c, processing_checklist.c

# The number of uploads per query.
_BATCH = 500
_MAX_REASON = 2000
_REJECTED_RETRY_S = 600
_TYPES = frozenset(DataType)
_other = ingest_items.alias("other")
# Equal uploads share a medium (`LeasedWriter.merge`): one of them is processed at a time.
_shared = exists().where(
    _other.c.media_id == _items.media_id,
    _other.c.main_api_id != _items.main_api_id,
    _other.c.lease_until > DatabaseClock(),
)
log = structlog.get_logger(__name__)


class _InvalidItem(Exception):
    """An item cannot be leased because of a value in its rows; the items behind it can."""


class IngestQueue:
    """Assigns uploads to workers and schedules retries.

    Every method raises DatabaseUnavailable. Methods with a lease raise LeaseLost if another worker
    has it.
    """

    def __init__(self, writer: LeasedWriter) -> None:
        """Use a writer that the caller closes."""
        self._writer = writer
        self._turns: dict[ItemState, int] = {}
        """The user whose item was claimed last, by state."""

    async def now(self) -> float:
        """Return the seconds since 1970 on the database's clock."""
        return float((await self._writer.read(select(DatabaseClock())))[0][0])

    async def enqueue(self, uploads: Sequence[Upload], *, settled_before: float) -> int:
        """Insert new uploads; return how many items became due by this call.

        An upload that is listed although it was settled before ``settled_before`` (a time of `now`
        before the list was requested) is reopened: the main API did not store the result. An upload
        that was settled later is not, because the list may be older than the result.

        A listed id whose item has another path is that of another upload: the database of the main
        API was restored, or another main API is used now. Its item is replaced by a new one.
        """
        added = 0
        for start in range(0, len(uploads), _BATCH):
            added += await self._enqueue(uploads[start : start + _BATCH], settled_before)
        return added

    async def _enqueue(self, uploads: Sequence[Upload], settled_before: float) -> int:
        by_id = {one.id: one for one in uploads}

        async def work(connection: AsyncConnection) -> int:
            known, forgotten = await _delete_reused(connection, by_id)
            new = [_new(one) for one in by_id.values() if one.id not in known]
            if new:
                await connection.execute(_inserting().values(new))
            due = len(new) + await _reopen(connection, known, settled_before)
            if forgotten:
                await connection.execute(add_to_total(DONE, -forgotten))
            return due

        return await self._writer.run(work)

    async def record_unusable(self, entries: Sequence[UnusableUpload]) -> list[UnusableUpload]:
        """Record entries that no worker can process as kept; return those that are new."""
        by_id = {one.id: one for one in entries}

        async def work(connection: AsyncConnection) -> list[UnusableUpload]:
            known, forgotten = await _delete_reused(connection, by_id)
            new = [one for one in by_id.values() if one.id not in known]
            if new:
                await connection.execute(_inserting().values([_unusable(one) for one in new]))
            if forgotten:
                await connection.execute(add_to_total(DONE, -forgotten))
            return new

        return await self._writer.run(work) if by_id else []

    async def retry_kept(self) -> int:
        """Make all kept uploads due again; return their number."""
        kept = _items.state == ItemState.KEPT
        now = dict.fromkeys(("not_before", "updated_at"), DatabaseClock())
        again = update(ingest_items).where(kept)
        again = again.values(state=ItemState.FAILED, final=False, heals=0, **now)
        # The main API lists these again, and their entries are read anew.
        unusable = delete(ingest_items).where(kept, _items.data_type.not_in(list(DataType)))

        async def work(connection: AsyncConnection) -> int:
            removed = await connection.execute(unusable)
            return removed.rowcount + (await connection.execute(again)).rowcount

        return await self._writer.run(work)

    async def claim(self, worker_id: str, state: ItemState = ItemState.QUEUED) -> LeasedItem | None:
        """Lease an item in this state; return None if none is due.

        The users are served in turn, in the order of their ids, so that nobody's uploads delay
        those of all others. Of each user it is the item that has been due longest. The medium and
        its checklist are created in the same transaction, so that an upload never gets two media.
        """
        due: int | None = None

        async def work(connection: AsyncConnection) -> LeasedItem | None:
            nonlocal due
            while row := await self._next_due(connection, state):
                due = row.main_api_id
                # Written by another version of smartserve, or by hand.
                if row.data_type in _TYPES:
                    try:
                        item = await self._lease(connection, row, worker_id)
                    except (ValueError, TypeError, OverflowError) as error:
                        # A value has a wrong type, or is not one of those that are defined.
                        raise _InvalidItem(row.main_api_id, str(error)) from error
                    self._turns[state] = item.upload.user_id
                    return item
                reason = f"its type {row.data_type!r} is unknown to this version"
                log.error("upload_kept", main_api_id=due, reason=reason)
                await connection.execute(_update(due, **_kept(reason)))
            due = None
            return None

        while True:
            try:
                return await self._writer.run(work)
            except _InvalidItem as error:
                main_api_id, text = error.args
                await self._postpone(main_api_id, f"its row has a value that is not valid: {text}")
            except RowRejected as error:
                if due is None:
                    raise
                # It must not block the rows behind it. For example, a column of another program's
                # media_files is narrower than ours.
                await self._postpone(due, f"the database rejects its row: {driver_text(error)}")

    async def _next_due(self, connection: AsyncConnection, state: ItemState) -> Row[Any] | None:
        found = _items.state == state, ~_shared
        return await INGEST_LEASES.next_due(connection, *found, after=self._turns.get(state))

    async def _postpone(self, main_api_id: int, reason: str) -> None:
        reason = reason[:_MAX_REASON]
        log.warning("upload_rejected_by_database", main_api_id=main_api_id, reason=reason)
        values = {"state": ItemState.FAILED, "not_before": DatabaseClock() + _REJECTED_RETRY_S}
        # Only while it is free: another worker may have leased it since it was rejected here.
        statement = _update(main_api_id, reason=reason, **values).where(INGEST_LEASES.free)
        await self._writer.run(lambda connection: connection.execute(statement))

    async def _lease(
        self, connection: AsyncConnection, row: Row[Any], worker_id: str
    ) -> LeasedItem:
        media_id, day = await _find_or_create_medium(connection, row)
        retried, revisited = row.state == ItemState.FAILED, row.state == ItemState.INCOMPLETE
        heals = row.heals + (retried or revisited)
        acquired = INGEST_LEASES.acquired(self._writer.lease_s)
        lease = Lease(row.main_api_id, media_id, acquired["lease"])
        await connection.execute(
            _update(
                row.main_api_id,
                state=row.state if row.final or revisited else ItemState.QUEUED,
                media_id=media_id,
                worker_id=worker_id,
                heals=heals,
                takeovers=row.takeovers + (row.lease is not None),
                **acquired,
            )
        )
        if retried and not row.final:
            await _reset_attempts(connection, media_id)
        if not (row.final or revisited):
            # An item that is not finished has not been reported, or its worker died just then. Its
            # medium may be that of an equal upload, whose report says nothing about this one.
            again = update(processing_checklist).where(
                _steps.media_id == media_id,
                processing_checklist.c[Step.UPDATE_CALLBACK] == StepState.COMPLETED,
            )
            await connection.execute(again.values(_pending(Step.UPDATE_CALLBACK)))
        steps = await _records(connection, media_id)
        if row.lease is not None:
            await connection.execute(add_to_total(TAKEOVERS, 1))
        return LeasedItem(
            upload=_upload(row),
            lease=lease,
            day=day,
            steps=steps,
            retries=heals,
            report_due=row.final,
            last_reason=row.reason,
            analysis_only=revisited,
        )

    async def renew(self, lease: Lease) -> None:
        """Extend the lease."""
        await self._writer.fenced_execute(lease)

    async def release(self, lease: Lease) -> None:
        """Return an item unchanged to the queue."""
        await self._end(lease)

    async def finish(self, lease: Lease, *, analysis_in_s: float | None = None) -> None:
        """Mark an item as done, except for an analysis that is retried after ``analysis_in_s``."""
        state = ItemState.DONE if analysis_in_s is None else ItemState.INCOMPLETE
        values: dict[str, Any] = {"state": state, "reason": None, "finished_at": DatabaseClock()}
        # The retries of the analysis are counted from here on. Those of a finished upload stay:
        # they show an operator that it failed before.
        if state is ItemState.INCOMPLETE:
            values["heals"] = 0
        await self._end(lease, again_in_s=analysis_in_s, **values)

    async def finish_revisit(self, lease: Lease, *, again_in_s: float | None) -> None:
        """End the retry of an analysis; retry it after ``again_in_s``, or never again if None."""
        if again_in_s is None:
            await self._end(lease, state=ItemState.DONE, heals=0, not_before=None)
        else:
            await self._end(lease, again_in_s=again_in_s)

    async def fail(self, lease: Lease, reason: str, *, again_in_s: float) -> None:
        """Mark an item as failed; it is retried after ``again_in_s``."""
        values = {"state": ItemState.FAILED, "reason": reason[:_MAX_REASON]}
        await self._end(lease, again_in_s=again_in_s, **values)

    async def fail_permanently(self, lease: Lease, reason: str) -> None:
        """Mark an item and its medium as failed; keep the lease to report it to the main API.

        A medium that was completed before stays completed: its image is served.
        """
        values: dict[str, Any] = {"state": ItemState.FAILED, "final": True, "heals": 0}
        values |= {"reason": reason[:_MAX_REASON], "not_before": DatabaseClock()}
        item = _update(lease.main_api_id, **values)
        unfinished = or_(_files.status.is_(None), _files.status != MediaStatus.COMPLETED)
        medium = update(media_files).where(_files.id == lease.media_id, unfinished)
        await self._writer.fenced_execute(lease, item, medium.values(status=MediaStatus.FAILED))

    async def keep(self, lease: Lease, reason: str) -> None:
        """Mark an item as failed permanently, and keep its upload and file for the operator.

        A medium whose original is stored stays as it is: its image is served.
        """
        item = _update(lease.main_api_id, **_kept(reason), **RELEASED)
        absent = or_(_files.status.is_(None), _files.status == MediaStatus.DOWNLOADING)
        medium = update(media_files).where(_files.id == lease.media_id, absent)
        await self._writer.fenced_execute(lease, item, medium.values(status=MediaStatus.FAILED))

    async def mark_reported(self, lease: Lease) -> None:
        """Mark the report of a permanent failure as delivered or given up; the item is settled."""
        await self._end(lease, not_before=None, finished_at=DatabaseClock())

    async def retry_report(self, lease: Lease, *, again_in_s: float) -> None:
        """Retry the report of a permanent failure after ``again_in_s``."""
        await self._end(lease, again_in_s=again_in_s)

    async def prune(self, *, older_than_s: float) -> int:
        """Delete items that were settled longer ago, and return their number.

        Items that will be processed or reported again stay, however old. Their media stay too: an
        upload that the main API lists again gets the same medium, by ``main_api_id``.
        """
        old = and_(_items.finished_at < DatabaseClock() - older_than_s, _items.lease.is_(None))
        done = and_(_items.state == ItemState.DONE, old)
        # A permanent failure whose report is delivered or given up.
        failed = and_(
            _items.state == ItemState.FAILED, old, _items.final, _items.not_before.is_(None)
        )

        # One state at a time, and in batches: an OR would read all items of both states for each
        # batch, and a long transaction would block the claims of the workers.
        async def work(connection: AsyncConnection, expired: ColumnElement[bool]) -> int:
            found = await _ids(connection, expired, limit=_BATCH)
            # The condition again: another worker may have reopened one meanwhile.
            gone = await connection.execute(
                delete(ingest_items).where(_items.main_api_id.in_(found), expired)
            )
            if expired is done:
                await connection.execute(add_to_total(DONE, -gone.rowcount))
            return gone.rowcount

        pruned = 0
        for expired in (done, failed):
            while count := await self._writer.run(partial(work, expired=expired)):
                pruned += count
        return pruned

    async def due_in_s(self, *, retries: bool) -> float | None:
        """Return the seconds until an item is due, 0 if one is due now, or None if none waits.

        The end of a lease counts, because its upload may have to be taken over. Incomplete items do
        not: they are processed when the worker runs for another reason.
        """
        states = [ItemState.QUEUED, *([ItemState.FAILED] if retries else [])]
        # The second condition excludes permanent failures, which would be read one by one.
        waiting = and_(_items.state.in_(states), _items.not_before.is_not(None))
        return await INGEST_LEASES.due_in_s(self._writer, waiting)

    async def _end(
        self, lease: Lease, /, *, again_in_s: float | None = None, **values: Any
    ) -> None:
        """Write the values and release the lease in one transaction."""
        if again_in_s is not None:
            values["not_before"] = DatabaseClock() + again_in_s
        statements = [_update(lease.main_api_id, **values, **RELEASED)]
        # An item that is done is never leased, so this one was not.
        if values.get("state") is ItemState.DONE:
            statements.append(add_to_total(DONE, 1))
        await self._writer.fenced_execute(lease, *statements)


def _update(main_api_id: int, **values: Any) -> Any:
    changed = update(ingest_items).where(_items.main_api_id == main_api_id)
    return changed.values(updated_at=DatabaseClock(), **values)


def _kept(reason: str) -> dict[str, Any]:
    # Without `finished_at` the row is neither reopened by the list nor deleted by its age.
    values = {"state": ItemState.KEPT, "final": True, "not_before": None, "finished_at": None}
    return {**values, "reason": reason[:_MAX_REASON]}


def _inserting() -> Insert:
    # Another worker may insert the same rows between the query and this statement.
    adding = insert(ingest_items).prefix_with("OR IGNORE", dialect="sqlite")
    return adding.prefix_with("IGNORE", dialect="mysql")


def _unusable(entry: UnusableUpload) -> dict[str, Any]:
    now = dict.fromkeys(("created_at", "updated_at"), DatabaseClock())
    names = {"main_api_id": entry.id, "user_id": entry.user_id, "image_path": entry.image_path}
    return {**names, "data_type": "", **_kept(entry.reason), **now}


def _new(upload: Upload) -> dict[str, Any]:
    values = asdict(upload)
    now = dict.fromkeys(("not_before", "created_at", "updated_at"), DatabaseClock())
    return {"main_api_id": values.pop("id"), "state": ItemState.QUEUED, **values, **now}


def _upload(row: Row[Any]) -> Upload:
    values = {one.name: getattr(row, one.name) for one in fields(Upload) if one.name != "id"}
    return Upload(id=row.main_api_id, **values | {"data_type": DataType(row.data_type)})


async def _ids(
    connection: AsyncConnection, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[int]:
    query = select(_items.main_api_id).where(*conditions).limit(limit)
    found = await connection.execute(query)
    return [row.main_api_id for row in found]


async def _delete_reused(
    connection: AsyncConnection, listed: Mapping[int, Upload | UnusableUpload]
) -> tuple[set[int], int]:
    """Delete the items of earlier uploads whose ids the listed uploads have now.

    The images of the earlier uploads are kept, but can no longer be found by these ids: otherwise a
    new upload would get the image of an earlier one. Return the ids of the listed uploads that have
    items, and the number of deleted items that were done.
    """
    paths = select(_items.main_api_id, _items.image_path, _items.state)
    paths = paths.where(_items.main_api_id.in_(listed))
    rows = (await connection.execute(paths)).all()
    known = {row.main_api_id for row in rows}
    others = [one for one, path, _ in rows if path != listed[one].image_path]
    if not others:
        return known, 0
    # Read again with a lock: another worker may have replaced them meanwhile.
    locked = paths.where(_items.main_api_id.in_(others)).with_for_update()
    rows = (await connection.execute(locked)).all()
    stale = [row for row in rows if row.image_path != listed[row.main_api_id].image_path]
    if others := [row.main_api_id for row in stale]:
        log.warning("upload_ids_reused", uploads=len(others), first=others[0])
        # A worker that has leased one of them loses its lease.
        await connection.execute(delete(ingest_items).where(_items.main_api_id.in_(others)))
        media = update(media_files).where(_files.main_api_id.in_(others))
        # MySQL would set the date, with which the facts of the medium would become invalid.
        await connection.execute(media.values(main_api_id=0, updated_at=_files.updated_at))
    return known.difference(others), sum(row.state == ItemState.DONE for row in stale)


async def _reopen(connection: AsyncConnection, listed: Iterable[int], settled_before: float) -> int:
    """Reopen listed items that were settled before the list was requested.

    A medium is reported again. A failed upload runs again from its beginning: its file is still
    there, and may be sound now.
    """
    settled = and_(_items.main_api_id.in_(listed), _items.finished_at < settled_before)
    failed_reported = and_(settled, _items.final, _items.not_before.is_(None))
    # Correlated: SQLite would collect the ids of all completed media for an IN.
    completed = exists().where(_files.id == _items.media_id, _files.status == MediaStatus.COMPLETED)
    succeeded = _items.state.in_((ItemState.DONE, ItemState.INCOMPLETE))
    done = await _ids(connection, settled, succeeded)
    # A failed item whose medium is completed: the report of an earlier completion was lost.
    done += await _ids(connection, failed_reported, completed)
    failed = [one for one in await _ids(connection, failed_reported) if one not in done]
    # Counted by an update and not by a query: another worker may reopen the same items.
    leaving = update(ingest_items).where(
        _items.main_api_id.in_(done), _items.state == ItemState.DONE
    )
    left = await connection.execute(leaving.values(state=ItemState.INCOMPLETE))
    if done:
        # Not as a subquery: MariaDB would read the whole checklist for an UPDATE with one.
        query = select(_items.media_id).where(_items.main_api_id.in_(done))
        media = [row.media_id for row in await connection.execute(query)]
        callback = update(processing_checklist).where(_steps.media_id.in_(media))
        await connection.execute(callback.values(_pending(Step.UPDATE_CALLBACK)))
    now = dict.fromkeys(("not_before", "updated_at"), DatabaseClock())
    for ids, state in ((done, ItemState.QUEUED), (failed, ItemState.FAILED)):
        if ids:
            again = update(ingest_items).where(_items.main_api_id.in_(ids))
            values = now | {"heals": 0, "finished_at": None, "state": state}
            # A worker that retries an analysis must not mark the item as done after this.
            await connection.execute(again.values(final=False, **values, **RELEASED))
    if left.rowcount:
        await connection.execute(add_to_total(DONE, -left.rowcount))
    return len(done) + len(failed)


def _pending(step: Step) -> dict[str, Any]:
    return {step: StepState.PENDING, f"{step}_attempts": 0}


async def _find_or_create_medium(connection: AsyncConnection, row: Row[Any]) -> tuple[int, date]:
    """Return the id of the upload's medium and the day of its creation."""
    # Of another user it is that of another upload, whose item was deleted by its age before the
    # main API used the id again.
    uploaded = and_(_files.main_api_id == row.main_api_id, _files.user_id == row.user_id)
    same = _files.id == row.media_id if row.media_id else uploaded
    # Not converted: a type raises on a value that it does not define.
    query = select(_files.id, raw(_files.created_at), raw(_files.status)).where(same)
    found = (await connection.execute(query.order_by(_files.id).limit(1))).first()
    created_at = datetime.fromtimestamp(row.created_at, UTC)
    if found is None:
        names = ("main_api_id", "user_id", "data_type", "original_name", "mime_type")
        values = {name: getattr(row, name) for name in names}
        values |= {
            "status": MediaStatus.DOWNLOADING,
            "created_at": created_at.replace(tzinfo=None),
        }
        result = await connection.execute(insert(media_files).values(values))
        media_id: int = result.lastrowid
    else:
        media_id = found.id
        # If it is not a time, as MySQL's zero date, the day of the item counts.
        stored_at = utc_timestamp(found.created_at)
        created_at = stored_at if stored_at.timestamp() else created_at
    known = select(_steps.id).where(_steps.media_id == media_id)
    if (await connection.execute(known)).first() is None:
        # Steps that another program has completed are not repeated.
        completed = found is not None and found.status == MediaStatus.COMPLETED
        state = StepState.COMPLETED if completed else StepState.PENDING
        values = {"media_id": media_id, "worker_id": "", "retrieve_file": state}
        new = insert(processing_checklist).values({**values, "resize_optimize": state})
        await connection.execute(new)
    return media_id, created_at.date()


async def _reset_attempts(connection: AsyncConnection, media_id: int) -> None:
    """Reset the attempts of every step that is not completed."""
    for step in Step:
        column = processing_checklist.c[step]
        left = and_(_steps.media_id == media_id, column != StepState.COMPLETED)
        await connection.execute(update(processing_checklist).where(left).values(_pending(step)))


async def _records(connection: AsyncConnection, media_id: int) -> dict[Step, StepRecord]:
    columns = [raw(_steps[name]) for step in Step for name in (step, f"{step}_attempts")]
    query = select(*columns).where(_steps.media_id == media_id).order_by(_steps.id)
    row = (await connection.execute(query)).mappings().all()[-1]
    return {
        step: StepRecord(
            StepState(row[step] or StepState.PENDING), int(row[f"{step}_attempts"] or 0)
        )
        for step in Step
    }
