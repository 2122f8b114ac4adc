"""Summarises the ingest queue for the operator and for /metrics: counts and recent failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    String,
    and_,
    case,
    func,
    or_,
    select,
    type_coerce,
    union_all,
)

from proxy.domain.upload import Failure, ItemState, QueueReport, Step, StepState
from proxy.storage.database.leased_writer import DONE, TAKEOVERS, LeasedWriter
from proxy.storage.database.tables import (
    DatabaseClock,
    ingest_items,
    ingest_totals,
    processing_checklist,
)

_items, _steps = ingest_items.c, processing_checklist.c
_HOUR_S = 3600.0
_FAILURES = 20

# Settled items are by far the most, so no query may read them all: those that are done have a
# total, the others are counted in an index.
_NOT_DONE = (ItemState.QUEUED, ItemState.INCOMPLETE, ItemState.FAILED, ItemState.KEPT)
# Only a permanent failure that is reported is never due again.
_open = and_(_items.state.in_(_NOT_DONE), _items.not_before.is_not(None))
_settled_failure = and_(_items.state == ItemState.FAILED, _items.not_before.is_(None))
_failed = and_(_items.state == ItemState.FAILED, _items.final)
_unfinished = or_(
    _items.state == ItemState.QUEUED, and_(_items.state == ItemState.FAILED, ~_items.final)
)
_hour = _items.finished_at > DatabaseClock() - _HOUR_S
_finished = and_(_items.state.in_((ItemState.DONE, ItemState.INCOMPLETE)), _hour)


async def queue_report(writer: LeasedWriter) -> QueueReport:
    """Return counts and the latest failures of the queue; raises DatabaseUnavailable."""
    states = dict.fromkeys(map(str, ItemState), 0)
    for row in await writer.read(_STATES):
        states[row.state] = row.items
    counted = {row.name: row.value for row in await writer.read(select(ingest_totals))}
    # A restored backup or a rolling upgrade may leave a total too low for a while.
    states[ItemState.DONE] = max(0, counted.get(DONE, 0))
    # SUM and MIN over no rows are NULL; MySQL's SUM is a Decimal.
    totals = {name: value or 0 for name, value in (await writer.read(_TOTALS))[0]._asdict().items()}
    settled = (await writer.read(_SETTLED))[0][0]
    # The clock of the database may be set back between insert and report.
    oldest_s = max(0.0, float(totals.pop("oldest_s")))
    steps, attempts = _by_step(await writer.read(_STEPS))
    return QueueReport(
        states=states,
        takeovers=counted.get(TAKEOVERS, 0),
        finished_last_hour=(await writer.read(_FINISHED))[0][0],
        failed_for_good=settled + int(totals.pop("failed")),
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
    _count(_unfinished & (_items.created_at < DatabaseClock() - _HOUR_S)).label("stuck"),
    (DatabaseClock() - func.min(case((_unfinished, _items.created_at)))).label("oldest_s"),
    _count(_failed).label("failed"),
    _count(_items.lease_until > DatabaseClock()).label("held"),
    _count(_items.lease_until <= DatabaseClock()).label("run_out"),
).where(_open)
_SETTLED = select(func.count()).where(_settled_failure)
_FINISHED = select(func.count()).where(_finished)
_STATES = (
    select(_items.state, func.count().label("items"))
    .where(_items.state.in_(_NOT_DONE))
    .group_by(_items.state)
)
# Disjoint: an incomplete item is done, and a failed one that is open has not finished. Not an OR of
# the conditions, for which MariaDB would scan the table.
_current = union_all(
    select(_items.media_id).where(_open, _items.state != ItemState.INCOMPLETE),
    select(_items.media_id).where(_finished),
    select(_items.media_id).where(_settled_failure, _hour),
).subquery()
_STEPS = (
    select(
        # As text: the ENUM type raises on a value that another version of the table added.
        *(type_coerce(_steps[step], String).label(step) for step in Step),
        func.count().label("count"),
        *(func.sum(_steps[f"{step}_attempts"]).label(f"{step}_attempts") for step in Step),
    )
    .select_from(_current.join(processing_checklist, _steps.media_id == _current.c.media_id))
    .group_by(*(_steps[step] for step in Step))
)
_LATEST = (
    select(_items.main_api_id, _items.media_id, _items.final, _items.reason)
    .where(_items.state.in_((ItemState.FAILED, ItemState.KEPT)))
    .order_by(_items.updated_at.desc())
    .limit(_FAILURES)
)


def _by_step(rows: Sequence[Row[Any]]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Return the number of items by step and state, and the attempts by step."""
    counts = {str(step): dict.fromkeys(map(str, StepState), 0) for step in Step}
    attempts: Counter[str] = Counter({str(step): 0 for step in Step})
    for values in (row._asdict() for row in rows):
        for step in Step:
            # A state that is not defined is not a completed one.
            state = values[step] if values[step] in counts[step] else StepState.PENDING
            counts[step][state] += values["count"]
            attempts[step] += int(values[f"{step}_attempts"] or 0)
    return counts, dict(attempts)
