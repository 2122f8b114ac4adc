"""Summarises the ingest queue for the operator and for /metrics: counts and recent failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, or_, select

from proxy.domain.upload import Failure, ItemState, QueueReport, Step, StepState
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.tables import DatabaseClock, ingest_items, processing_checklist

_items, _steps = ingest_items.c, processing_checklist.c
_HOUR_S = 3600.0
_FAILURES = 20

_failed = and_(_items.state == ItemState.FAILED, _items.final)
_unfinished = or_(
    _items.state == ItemState.QUEUED, and_(_items.state == ItemState.FAILED, ~_items.final)
)
_recent = _items.finished_at > DatabaseClock() - _HOUR_S


async def queue_report(writer: LeasedWriter) -> QueueReport:
    """Return counts and the latest failures of the queue; raises DatabaseUnavailable."""
    states = dict.fromkeys(map(str, ItemState), 0)
    for row in await writer.read(_STATES):
        states[row.state] = row.items
    # SUM and MIN over no rows are NULL; MySQL's SUM is a Decimal.
    totals = {name: value or 0 for name, value in (await writer.read(_TOTALS))[0]._asdict().items()}
    # The clock of the database may be set back between insert and report.
    oldest_s = max(0.0, float(totals.pop("oldest_s")))
    steps, attempts = _by_step(await writer.read(_STEPS))
    return QueueReport(
        states=states,
        steps=steps,
        attempts=attempts,
        oldest_s=oldest_s,
        **{name: int(value) for name, value in totals.items()},
        failures=tuple(
            Failure(row.main_api_id, row.media_id, bool(row.final), row.reason or "")
            for row in await writer.read(_LATEST)
        ),
    )


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))


_TOTALS = select(
    func.sum(_items.takeovers).label("takeovers"),
    _count(_unfinished & (_items.created_at < DatabaseClock() - _HOUR_S)).label("stuck"),
    (DatabaseClock() - func.min(case((_unfinished, _items.created_at)))).label("oldest_s"),
    _count(_failed).label("failed_for_good"),
    _count(_items.lease_until > DatabaseClock()).label("held"),
    _count(_items.lease_until <= DatabaseClock()).label("run_out"),
    _count(and_(_items.state.in_((ItemState.DONE, ItemState.INCOMPLETE)), _recent)).label(
        "finished_last_hour"
    ),
)
_STATES = select(_items.state, func.count().label("items")).group_by(_items.state)
_STEPS = (
    select(
        *(_steps[step] for step in Step),
        func.count().label("count"),
        *(func.sum(_steps[f"{step}_attempts"]).label(f"{step}_attempts") for step in Step),
    )
    .select_from(processing_checklist.join(ingest_items, _items.media_id == _steps.media_id))
    .where(or_(_unfinished, _failed, _recent))
    .group_by(*(_steps[step] for step in Step))
)
_LATEST = (
    select(_items.main_api_id, _items.media_id, _items.final, _items.reason)
    .where(_items.state == ItemState.FAILED)
    .order_by(_items.updated_at.desc())
    .limit(_FAILURES)
)


def _by_step(rows: Sequence[Row[Any]]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Return the number of items by step and state, and the attempts by step."""
    counts = {str(step): dict.fromkeys(map(str, StepState), 0) for step in Step}
    attempts: Counter[str] = Counter({str(step): 0 for step in Step})
    for values in (row._asdict() for row in rows):
        for step in Step:
            counts[step][values[step] or StepState.PENDING] += values["count"]
            attempts[step] += int(values[f"{step}_attempts"] or 0)
    return counts, dict(attempts)
