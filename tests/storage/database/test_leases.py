"""Leases hold for every table: one worker each, owners in turn, no write by a late hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import LeaseLost
from proxy.settings import DatabaseSettings
from proxy.storage.database.leased_writer import RELEASED, LeasedTable
from proxy.storage.database.tables import DatabaseClock, define_table
from proxy.storage.database.transactions import SqlDatabase
from tests.storage.database.backends import Backend

LEASE_S = 30.0
_metadata = sa.MetaData()
_table = define_table(
    "errands",
    sa.Column("id", sa.String(8), primary_key=True),
    sa.Column("kind", sa.String(8)),
    sa.Column("owner", sa.String(8)),
    sa.Column("note", sa.String(8)),
    sa.Column("lease", sa.String(32)),
    sa.Column("lease_until", sa.Double),
    sa.Column("not_before", sa.Double),
    sa.Index("ix_errands_turns", "kind", "owner", "not_before"),
    target=_metadata,
)
LEASES = LeasedTable(_table, key="id", owner="owner", turns="ix_errands_turns")
HERE = _table.c.kind == "here"


@pytest.fixture
async def errands(url: str, settings: DatabaseSettings) -> AsyncIterator[SqlDatabase]:
    patient = settings.model_copy(update={"query_timeout_s": 60, "connect_timeout_s": 60})
    async with SqlDatabase(url, patient, isolation="READ COMMITTED") as database:

        async def create(connection: AsyncConnection) -> None:
            await connection.run_sync(_metadata.create_all)

        await database.run(create)
        yield database


async def add(database: SqlDatabase, name: str, owner: str, *, kind: str = "here") -> None:
    values = {"id": name, "owner": owner, "kind": kind, "not_before": DatabaseClock()}
    await database.run(lambda one: one.execute(sa.insert(_table).values(values)))


async def claim(database: SqlDatabase, after: str | None = None) -> sa.Row[Any] | None:
    """Lease the next row as it is after that."""

    async def work(connection: AsyncConnection) -> sa.Row[Any] | None:
        row = await LEASES.next_due(connection, HERE, after=after)
        if row is None:
            return None
        own = _table.c.id == row.id
        await connection.execute(sa.update(_table).where(own).values(LEASES.acquired(LEASE_S)))
        return (await connection.execute(sa.select(_table).where(own))).first()

    return await database.run(work)


async def test_a_row_is_leased_once_and_only_those_that_meet_the_conditions(
    errands: SqlDatabase,
) -> None:
    await add(errands, "a", "u")
    await add(errands, "b", "u", kind="there")
    row = await claim(errands)
    assert row is not None
    assert row.id == "a"
    assert await claim(errands) is None


async def test_the_owner_behind_the_last_one_is_next_and_after_the_last_the_first(
    errands: SqlDatabase,
) -> None:
    for name, owner in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")):
        await add(errands, name, owner)
    found, after = list[str](), None
    while row := await claim(errands, after):
        found, after = [*found, row.id], row.owner
    assert found == ["a1", "b1", "c1", "a2"]


async def test_who_has_lost_the_lease_writes_nothing(
    errands: SqlDatabase, backend: Backend, url: str
) -> None:
    await add(errands, "a", "u")
    first = await claim(errands)
    assert first is not None
    backend.run(url, "UPDATE errands SET lease_until = 1; SELECT 1")
    second = await claim(errands)
    assert second is not None

    def write(token: str, text: str) -> Any:
        note = sa.update(_table).values(note=text)
        return LEASES.fenced(errands, "a", token, lambda one: one.execute(note), lease_s=LEASE_S)

    with pytest.raises(LeaseLost):
        await write(first.lease, "late")
    await write(second.lease, "own")
    assert backend.run(url, "SELECT note FROM errands") == ["own"]


async def test_the_time_until_a_row_is_due_counts_leases(
    errands: SqlDatabase, backend: Backend, url: str
) -> None:
    assert await LEASES.due_in_s(errands, HERE) is None
    await add(errands, "a", "u")
    assert await LEASES.due_in_s(errands, HERE) == 0
    row = await claim(errands)
    assert row is not None
    assert await LEASES.due_in_s(errands, HERE) == pytest.approx(LEASE_S, abs=LEASE_S - 1)
    released = sa.update(_table).values(**RELEASED, not_before=DatabaseClock() + 500)
    await LEASES.fenced(errands, "a", row.lease, lambda one: one.execute(released), lease_s=LEASE_S)
    assert await LEASES.due_in_s(errands, HERE) == pytest.approx(500, abs=100)
