"""The queue of the ingest workers: each upload is one worker's at a time, by a lease.

A lease is a token in the upload's row. Whoever writes shows it, in the same transaction, so a
worker that was away for too long writes nothing more. Times are those of the database's clock.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Row, and_, case, func, insert, or_, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.ingest_item import ItemState, Lease, LeasedItem, StepRecord, StepState, Upload
from proxy.domain.media import DataType, MediaStatus
from proxy.domain.pending_image import Step
from proxy.storage.database.leased_writer import DatabaseClock, LeasedWriter
from proxy.storage.database.tables import ingest_items, media_files, processing_checklist

_items, _files, _steps = ingest_items.c, media_files.c, processing_checklist.c

_AT_ONCE = 500
"""Uploads looked up in one query."""
_MAX_REASON = 2000
_PUT_OFF_S = 600
_REFUSALS = (DataError, IntegrityError)
_free = or_(_items.lease_until.is_(None), _items.lease_until <= DatabaseClock())

log = structlog.get_logger(__name__)


class IngestQueue:
    """Who works on what, and when something is tried again.

    Every method raises DatabaseUnavailable; those that take a lease LeaseLost as well.
    """

    def __init__(self, writer: LeasedWriter) -> None:
        """The writer stays the caller's."""
        self._writer = writer

    async def now(self) -> float:
        """Seconds since 1970 by the database's clock."""
        return float((await self._writer.read(select(DatabaseClock())))[0][0])

    async def offer(self, uploads: Sequence[Upload], *, settled_before: float) -> int:
        """Queue what is new; gives how much there is to do that was not there before.

        What was settled before that time of `now` and is pending there all the same has been
        forgotten there, and is told once more. Of what was settled later the list may not know.
        """
        left = iter(uploads)
        added = 0
        while chunk := list(islice(left, _AT_ONCE)):
            added += await self._offer(chunk, settled_before)
        return added

    async def _offer(self, uploads: Sequence[Upload], settled_before: float) -> int:
        by_id = {one.id: one for one in uploads}

        async def work(connection: AsyncConnection) -> int:
            known = set(await _ids(connection, _items.main_api_id.in_(by_id)))
            new = [one for one in by_id.values() if one.id not in known]
            if new:
                # Another worker may have listed the same and be quicker.
                adding = insert(ingest_items).prefix_with("OR IGNORE", dialect="sqlite")
                adding = adding.prefix_with("IGNORE", dialect="mysql")
                await connection.execute(adding.values([_new(one) for one in new]))
            return len(new) + await _reopen(connection, known, settled_before)

        return await self._writer.run(work)

    async def claim(self, worker_id: str, state: ItemState = ItemState.QUEUED) -> LeasedItem | None:
        """Take one upload that nobody has, for this worker alone; None where nothing is due.

        One of those that are queued; or that failed, or that are incomplete, and are due again. Its
        medium and its checklist are made in the same transaction, so that there is one medium for
        an upload for ever.
        """
        due: int | None = None

        async def work(connection: AsyncConnection) -> LeasedItem | None:
            nonlocal due
            row = (await connection.execute(_DUE.where(_items.state == state))).first()
            due = None if row is None else row.main_api_id
            return None if row is None else await self._take(connection, row, worker_id)

        while True:
            try:
                return await self._writer.run(work)
            except DatabaseUnavailable as error:
                if due is None or not isinstance(error.__cause__, _REFUSALS):
                    raise
                await self._put_off(due, error.__cause__)

    async def _put_off(self, main_api_id: int, refusal: DBAPIError) -> None:
        """Let the others pass one whose medium the database will not have.

        A table of another program's may be narrower than ours.
        """
        reason = f"the database refuses its row: {refusal.orig}"[:_MAX_REASON]
        log.warning("upload_refused_by_database", main_api_id=main_api_id, reason=reason)
        values = {"state": ItemState.FAILED, "not_before": DatabaseClock() + _PUT_OFF_S}

        async def work(connection: AsyncConnection) -> None:
            put_off = _update(main_api_id, reason=reason, **values)
            await connection.execute(put_off.where(_free))

        await self._writer.run(work)

    async def _take(self, connection: AsyncConnection, row: Row[Any], worker_id: str) -> LeasedItem:
        media_id, day = await _medium(connection, row)
        healing, revisited = row.state == ItemState.FAILED, row.state == ItemState.INCOMPLETE
        heals = row.heals + (healing or revisited)
        lease = Lease(row.main_api_id, media_id, secrets.token_hex(16))
        await connection.execute(
            _update(
                row.main_api_id,
                state=row.state if row.final or revisited else ItemState.QUEUED,
                media_id=media_id,
                worker_id=worker_id,
                lease=lease.token,
                lease_until=DatabaseClock() + self._writer.lease_s,
                heals=heals,
                takeovers=row.takeovers + (row.lease is not None),
            )
        )
        if healing and not row.final:
            await _try_anew(connection, media_id)
        return LeasedItem(
            upload=_upload(row),
            lease=lease,
            day=day,
            steps=await _records(connection, media_id),
            heals=heals,
            taken_over=row.lease is not None,
            owed=row.final,
            reason=row.reason,
            revisited=revisited,
        )

    async def renew(self, lease: Lease) -> None:
        """Show that its worker lives."""

        async def nothing(_connection: AsyncConnection) -> None:
            return

        await self._writer.fenced(lease, nothing)

    async def release(self, lease: Lease) -> None:
        """Give an upload back as it is, for the next worker."""
        await self._write(lease, **_FREE)

    async def finish(self, lease: Lease) -> None:
        """It is done."""
        done = {"state": ItemState.DONE, "reason": None, "finished_at": DatabaseClock()}
        await self._write(lease, **done, **_FREE)

    async def finish_incomplete(self, lease: Lease, *, again_in_s: float) -> None:
        """It is done, but for its analysis, which is looked at again from then on."""
        values = {
            "state": ItemState.INCOMPLETE,
            "not_before": DatabaseClock() + again_in_s,
            "heals": 0,
        }
        await self._write(lease, reason=None, finished_at=DatabaseClock(), **values, **_FREE)

    async def leave(self, lease: Lease, *, again_in_s: float | None) -> None:
        """Its analysis was looked at again: once more from then on, or for the last time."""
        last = {"state": ItemState.DONE, "heals": 0, "not_before": None}
        later = None if again_in_s is None else {"not_before": DatabaseClock() + again_in_s}
        await self._write(lease, **(later or last), **_FREE)

    async def fail(self, lease: Lease, reason: str, *, again_in_s: float) -> None:
        """It failed, and is tried again from then on."""
        values = {"state": ItemState.FAILED, "not_before": DatabaseClock() + again_in_s}
        await self._write(lease, reason=reason[:_MAX_REASON], **values, **_FREE)

    async def fail_for_good(self, lease: Lease, reason: str) -> None:
        """It failed, and its medium with it; the lease stays until the main API has heard of it.

        A medium that was completed before stays what it is: a picture that is served.
        """

        async def work(connection: AsyncConnection) -> None:
            values = {
                "state": ItemState.FAILED,
                "final": True,
                "not_before": DatabaseClock(),
                "heals": 0,
            }
            await connection.execute(
                _update(lease.main_api_id, reason=reason[:_MAX_REASON], **values)
            )
            open_ = or_(_files.status.is_(None), _files.status != MediaStatus.COMPLETED)
            failed = update(media_files).where(_files.id == lease.media_id, open_)
            await connection.execute(failed.values(status=MediaStatus.FAILED))

        await self._writer.fenced(lease, work)

    async def told(self, lease: Lease) -> None:
        """The main API has heard of the failure, or never will: nothing is left to do."""
        await self._write(lease, not_before=None, finished_at=DatabaseClock(), **_FREE)

    async def tell_later(self, lease: Lease, *, again_in_s: float) -> None:
        """The main API could not be told of the failure."""
        await self._write(lease, not_before=DatabaseClock() + again_in_s, **_FREE)

    async def due_in_s(self, *, healing: bool) -> float | None:
        """Seconds until there is something to do, 0 where there is now; None where nothing waits.

        The end of a lease counts: its upload may have to be taken over. What is incomplete does
        not: it has time until there is something else to do, or to ask.
        """
        states = [ItemState.QUEUED, *([ItemState.FAILED] if healing else [])]
        when = case((_items.lease_until.is_not(None), _items.lease_until), else_=_items.not_before)
        query = select(func.min(when) - DatabaseClock()).where(_items.state.in_(states))
        seconds = (await self._writer.read(query))[0][0]
        return None if seconds is None else max(0.0, float(seconds))

    async def _write(self, held: Lease, /, **values: Any) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_update(held.main_api_id, **values))

        await self._writer.fenced(held, work)


_DUE = (
    select(ingest_items)
    .where(_items.not_before <= DatabaseClock(), _free)
    .order_by(_items.not_before, _items.main_api_id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_FREE: Mapping[str, Any] = {"lease": None, "lease_until": None}


def _update(main_api_id: int, **values: Any) -> Any:
    changed = update(ingest_items).where(_items.main_api_id == main_api_id)
    return changed.values(updated_at=DatabaseClock(), **values)


def _new(upload: Upload) -> dict[str, Any]:
    return {
        "main_api_id": upload.id,
        "user_id": upload.user_id,
        "image_path": upload.image_path,
        "original_name": upload.original_name,
        "mime_type": upload.mime_type,
        "data_type": upload.data_type,
        "state": ItemState.QUEUED,
        "final": False,
        "not_before": DatabaseClock(),
        "heals": 0,
        "takeovers": 0,
        "created_at": DatabaseClock(),
        "updated_at": DatabaseClock(),
    }


def _upload(row: Row[Any]) -> Upload:
    return Upload(
        id=row.main_api_id,
        user_id=row.user_id,
        image_path=row.image_path,
        original_name=row.original_name,
        mime_type=row.mime_type,
        data_type=DataType(row.data_type),
    )


async def _ids(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[int]:
    found = await connection.execute(select(_items.main_api_id).where(*conditions))
    return [row.main_api_id for row in found]


async def _reopen(connection: AsyncConnection, listed: Iterable[int], settled_before: float) -> int:
    """What was settled before the list was asked for and is pending on it: tell it once more.

    That of one that had failed a picture is served means that its completion was never heard.
    """
    settled = and_(_items.main_api_id.in_(listed), _items.finished_at < settled_before)
    over = and_(settled, _items.final, _items.not_before.is_(None))
    completed = select(_files.id).where(_files.status == MediaStatus.COMPLETED)
    whole = _items.state.in_((ItemState.DONE, ItemState.INCOMPLETE))
    done = await _ids(connection, settled, whole)
    done += await _ids(connection, over, _items.media_id.in_(completed))
    failed = [one for one in await _ids(connection, over) if one not in done]
    if done:
        media = select(_items.media_id).where(_items.main_api_id.in_(done))
        callback = update(processing_checklist).where(_steps.media_id.in_(media))
        await connection.execute(callback.values(_pending(Step.UPDATE_CALLBACK)))
    for ids, state in ((done, ItemState.QUEUED), (failed, ItemState.FAILED)):
        if ids:
            again = update(ingest_items).where(_items.main_api_id.in_(ids))
            values = {
                "heals": 0,
                "not_before": DatabaseClock(),
                "finished_at": None,
                "updated_at": DatabaseClock(),
            }
            final = state == ItemState.FAILED
            await connection.execute(again.values(state=state, final=final, **values))
    return len(done) + len(failed)


def _pending(step: Step) -> dict[str, Any]:
    return {step: StepState.PENDING, f"{step}_attempts": 0}


async def _medium(connection: AsyncConnection, row: Row[Any]) -> tuple[int, date]:
    """The medium of an upload and the day it was made; it is made now where there is none."""
    same = _files.id == row.media_id if row.media_id else _files.main_api_id == row.main_api_id
    query = select(_files.id, _files.created_at, _files.status).where(same)
    found = (await connection.execute(query.order_by(_files.id).limit(1))).first()
    made = datetime.fromtimestamp(row.created_at, UTC).date()
    if found is None:
        result = await connection.execute(
            insert(media_files).values(
                main_api_id=row.main_api_id,
                user_id=row.user_id,
                data_type=row.data_type,
                original_name=row.original_name,
                mime_type=row.mime_type,
                status=MediaStatus.DOWNLOADING,
                created_at=datetime.fromtimestamp(row.created_at, UTC).replace(tzinfo=None),
            )
        )
        media_id: int = result.lastrowid
    else:
        media_id = found.id
        if isinstance(found.created_at, datetime):
            made = found.created_at.date()
    known = select(_steps.id).where(_steps.media_id == media_id)
    if (await connection.execute(known)).first() is None:
        # What another worker has completed is not done again.
        whole = found is not None and found.status == MediaStatus.COMPLETED
        state = StepState.COMPLETED if whole else StepState.PENDING
        values = {"media_id": media_id, "worker_id": "", "retrieve_file": state}
        new = insert(processing_checklist).values({**values, "resize_optimize": state})
        await connection.execute(new)
    return media_id, made


async def _try_anew(connection: AsyncConnection, media_id: int) -> None:
    """Give all steps that are not completed their attempts back."""
    for step in Step:
        column = processing_checklist.c[step]
        left = and_(_steps.media_id == media_id, column != StepState.COMPLETED)
        await connection.execute(update(processing_checklist).where(left).values(_pending(step)))


async def _records(connection: AsyncConnection, media_id: int) -> dict[Step, StepRecord]:
    query = select(processing_checklist).where(_steps.media_id == media_id).order_by(_steps.id)
    row = (await connection.execute(query)).mappings().all()[-1]
    return {
        step: StepRecord(
            StepState(row[step] or StepState.PENDING), int(row[f"{step}_attempts"] or 0)
        )
        for step in Step
    }
