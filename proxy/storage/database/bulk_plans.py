"""The plans of bulk work, and the leases of their parts; see `proxy.library.bulk`.

A plan has one row however large the library is, and one more for each part under way: a part is the
next range of ids, cut off when a worker wants one.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.bulk import BulkPlan, BulkTask, LeasedPart, PartProgress, PlanStatus
from proxy.domain.errors import LeaseLost
from proxy.storage.database.media_repository import servable
from proxy.storage.database.tables import (
    DatabaseClock,
    bulk_failures,
    bulk_parts,
    bulk_plans,
    media_files,
)
from proxy.storage.database.transactions import SqlDatabase

_plans, _parts, _failures = bulk_plans.c, bulk_parts.c, bulk_failures.c
_OPEN = (PlanStatus.RUNNING, PlanStatus.PAUSED)
_MAX_ERROR = 500
_LISTED = 50


class Claim(NamedTuple):
    """The answer to a worker that wants a part."""

    status: PlanStatus
    part: LeasedPart | None
    """None: the plan is not running, or other workers have its last parts."""


class Turn(NamedTuple):
    """What a worker must know to go on."""

    status: PlanStatus
    rate: float | None
    """Images per second that this worker may process."""


class BulkPlanTable:
    """Stores plans. Every method raises DatabaseUnavailable."""

    def __init__(self, database: SqlDatabase, *, lease_s: float) -> None:
        """Use a database that the caller closes; its isolation must be READ COMMITTED."""
        self._database = database
        self._lease_s = lease_s

    async def start(self, task: BulkTask, *, part_size: int, rate: float | None) -> int:
        """Add a plan for all images that can be served now; return its id."""

        async def work(connection: AsyncConnection) -> int:
            whole = sa.select(sa.func.count(), sa.func.max(media_files.c.id)).where(servable)
            total, last_id = (await connection.execute(whole)).one()
            values = {
                "task": task,
                "status": PlanStatus.RUNNING if total else PlanStatus.DONE,
                "next_id": 1,
                "last_id": last_id or 0,
                "part_size": part_size,
                "rate": rate,
                "total": total,
                "created_at": DatabaseClock(),
                "finished_at": None if total else DatabaseClock(),
            }
            done = await connection.execute(sa.insert(bulk_plans).values(values))
            key: Any = done.inserted_primary_key
            return int(key[0])

        return await self._database.run(work)

    async def claim(self, plan_id: int) -> Claim:
        """Lease a part whose worker has gone, else the next range of ids.

        Raises:
            KeyError: there is no such plan.
        """

        async def work(connection: AsyncConnection) -> Claim:
            # The row is locked, so workers cut off their parts one after the other.
            query = sa.select(bulk_plans).where(_plans.id == plan_id).with_for_update()
            plan = (await connection.execute(query)).one_or_none()
            if plan is None:
                raise KeyError(plan_id)
            if plan.status != PlanStatus.RUNNING:
                return Claim(PlanStatus(plan.status), None)
            part = await self._take_over(connection, plan_id) or await self._cut(connection, plan)
            if part is None and not await _count_parts(connection, plan_id):
                await _set(connection, plan_id, status=PlanStatus.DONE, finished_at=DatabaseClock())
                return Claim(PlanStatus.DONE, None)
            if part is not None and plan.measured_since is None:
                await _set(connection, plan_id, measured_since=DatabaseClock())
            return Claim(PlanStatus.RUNNING, part)

        return await self._database.run(work)

    async def _take_over(self, connection: AsyncConnection, plan_id: int) -> LeasedPart | None:
        query = (
            sa.select(bulk_parts)
            .where(_parts.plan_id == plan_id, _parts.lease_until <= DatabaseClock())
            .order_by(_parts.first_id)
            .limit(1)
        )
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        part = LeasedPart(plan_id, row.first_id, row.last_id, secrets.token_hex(16), row.position)
        await connection.execute(
            sa.update(bulk_parts)
            .where(_parts.plan_id == plan_id, _parts.first_id == row.first_id)
            .values(lease=part.token, lease_until=DatabaseClock() + self._lease_s)
        )
        return part

    async def _cut(self, connection: AsyncConnection, plan: Any) -> LeasedPart | None:
        """Cut off the next part of a plan, or return None at its end."""
        ids = (
            sa.select(media_files.c.id)
            .where(media_files.c.id.between(plan.next_id, plan.last_id), servable)
            .order_by(media_files.c.id)
            .limit(plan.part_size)
        ).subquery()
        last_id = await connection.scalar(sa.select(sa.func.max(ids.c.id)))
        if last_id is None:
            return None
        part = LeasedPart(plan.id, plan.next_id, last_id, secrets.token_hex(16), plan.next_id - 1)
        await connection.execute(
            sa.insert(bulk_parts).values(
                plan_id=plan.id,
                first_id=part.first_id,
                last_id=last_id,
                position=part.position,
                lease=part.token,
                lease_until=DatabaseClock() + self._lease_s,
            )
        )
        await _set(connection, plan.id, next_id=last_id + 1)
        return part

    async def renew(self, part: LeasedPart, progress: PartProgress) -> Turn:
        """Store the progress of a part, and keep its lease; a complete part is removed.

        Each image is counted once: the progress is stored only by the holder of the lease.

        Raises:
            LeaseLost: another worker has the part, or the plan was cancelled.
        """

        async def work(connection: AsyncConnection) -> Turn:
            mine = (
                _parts.plan_id == part.plan_id,
                _parts.first_id == part.first_id,
                _parts.lease == part.token,
                # Repeated after a commit whose outcome was unknown, it counts nothing twice.
                _parts.position == part.position,
            )
            # The plan first, as `claim` does: two orders could block each other.
            query = sa.select(bulk_plans).where(_plans.id == part.plan_id).with_for_update()
            plan = (await connection.execute(query)).one()
            if progress.position >= part.last_id:
                change: sa.Update | sa.Delete = sa.delete(bulk_parts).where(*mine)
            else:
                change = (
                    sa.update(bulk_parts)
                    .where(*mine)
                    .values(position=progress.position, lease_until=DatabaseClock() + self._lease_s)
                )
            if (await connection.execute(change)).rowcount != 1:
                raise LeaseLost("another worker has the part, or the plan was cancelled")
            await _set(
                connection,
                part.plan_id,
                done=_plans.done + progress.done,
                failed=_plans.failed + len(progress.failures),
            )
            if progress.failures:
                rows = [
                    {"plan_id": part.plan_id, "media_id": key, "error": reason[:_MAX_ERROR]}
                    for key, reason in progress.failures.items()
                ]
                await connection.execute(sa.insert(bulk_failures), rows)
            workers = await _count_parts(connection, part.plan_id)
            rate = None if plan.rate is None else plan.rate / max(1, workers)
            return Turn(PlanStatus(plan.status), rate)

        turn = await self._database.run(work)
        part.position = progress.position
        return turn

    async def release(self, part: LeasedPart) -> None:
        """Give a part back, so that another worker continues it at once."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(bulk_parts)
                .where(_parts.plan_id == part.plan_id, _parts.lease == part.token)
                .values(lease_until=0.0)
            )

        await self._database.run(work)

    async def pause(self, plan_id: int) -> bool:
        """Pause a running plan; return False if it is not running."""
        return await self._change(plan_id, {PlanStatus.RUNNING}, status=PlanStatus.PAUSED)

    async def resume(self, plan_id: int) -> bool:
        """Resume a paused plan; return False if it is not paused."""
        return await self._change(
            plan_id,
            {PlanStatus.PAUSED},
            status=PlanStatus.RUNNING,
            measured_since=None,
            measured_before=_plans.done + _plans.failed,
        )

    async def cancel(self, plan_id: int) -> bool:
        """End a plan; what is done stays. Return False if it has ended already."""
        return await self._change(
            plan_id, {*_OPEN}, status=PlanStatus.CANCELLED, finished_at=DatabaseClock()
        )

    async def find(self, plan_id: int) -> BulkPlan | None:
        """Return a plan, or None if there is no such plan."""
        return next(iter(await self._select(_plans.id == plan_id)), None)

    async def recent(self) -> Sequence[BulkPlan]:
        """Return the last 50 plans, newest first."""
        return await self._select(sa.true())

    async def failures(self, plan_id: int, *, after: int = 0, limit: int = 1000) -> dict[int, str]:
        """Return a page of failures above an id, ascending: reasons by media id."""
        query = (
            sa.select(_failures.media_id, _failures.error)
            .where(_failures.plan_id == plan_id, _failures.media_id > after)
            .order_by(_failures.media_id)
            .limit(limit)
        )
        return {row.media_id: row.error for row in await self._database.read(query)}

    async def _change(
        self, plan_id: int, among: set[PlanStatus], *, status: PlanStatus, **values: Any
    ) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            # The plan first, as `claim` does: two orders could block each other.
            change = sa.update(bulk_plans).where(_plans.id == plan_id, _plans.status.in_(among))
            done = await connection.execute(change.values(status=status, **values))
            if done.rowcount and status is PlanStatus.CANCELLED:
                await connection.execute(sa.delete(bulk_parts).where(_parts.plan_id == plan_id))
            return bool(done.rowcount)

        return await self._database.run(work)

    async def _select(self, condition: sa.ColumnElement[bool]) -> list[BulkPlan]:
        workers = (
            sa.select(sa.func.count())
            .where(_parts.plan_id == _plans.id, _parts.lease_until > DatabaseClock())
            .scalar_subquery()
        )
        query = (
            sa.select(bulk_plans, workers.label("workers"), DatabaseClock().label("now"))
            .where(condition)
            .order_by(_plans.id.desc())
            .limit(_LISTED)
        )
        return [_plan_of(row) for row in await self._database.read(query)]


async def _set(connection: AsyncConnection, plan_id: int, **values: Any) -> None:
    await connection.execute(sa.update(bulk_plans).where(_plans.id == plan_id).values(values))


async def _count_parts(connection: AsyncConnection, plan_id: int) -> int:
    query = sa.select(sa.func.count()).where(_parts.plan_id == plan_id)
    return int(await connection.scalar(query) or 0)


def _plan_of(row: sa.Row[Any]) -> BulkPlan:
    speed = None
    if row.measured_since is not None:
        seconds = float(row.finished_at or row.now) - row.measured_since
        processed = row.done + row.failed - row.measured_before
        speed = processed / seconds if seconds > 0 and processed else None
    return BulkPlan(
        id=row.id,
        task=BulkTask(row.task),
        status=PlanStatus(row.status),
        total=row.total,
        done=row.done,
        failed=row.failed,
        workers=row.workers,
        rate=row.rate,
        speed=speed,
    )
