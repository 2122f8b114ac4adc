"""Transactions: what is stored after an error, and what is retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import CommitUncertain, DatabaseUnavailable
from proxy.domain.media import MediaFacts
from proxy.settings import DatabaseSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.driver_errors import driver_error, lost_connection
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import upgrade
from proxy.storage.database.transactions import SqlDatabase, ThreadReader, single_connection
from tests.support.mounts import Mount


async def add_many(database: SqlMediaRepository, new: NewMedia, facts: MediaFacts) -> None:
    """Until there is no room: some is left in what SQLite has taken already."""
    for _ in range(1000):
        await database.insert(new, facts)


async def test_a_row_that_found_no_room_does_not_stand_for_certain(
    tmp_path: Path, mounted: Mount, settings: DatabaseSettings, new: NewMedia, facts: MediaFacts
) -> None:
    """So who filed its original first takes that away, and nothing is left over."""
    place = tmp_path / "place"
    with mounted(place, "size=2m"):
        url = f"sqlite+aiosqlite:///{place}/smartserve.db"
        await upgrade(url, settings)
        async with SqlMediaRepository(url, settings) as database:
            await database.insert(new, facts)
            filler = place / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with pytest.raises(DatabaseUnavailable) as refused:
                await add_many(database, new, facts)
            assert not isinstance(refused.value, CommitUncertain)
            filler.unlink()
            assert await database.insert(new, facts) > 1


@pytest.fixture
async def counters(tmp_path: Path, settings: DatabaseSettings) -> AsyncIterator[SqlDatabase]:
    """A database with one table of one column."""
    async with SqlDatabase(f"sqlite+aiosqlite:///{tmp_path}/numbers.db", settings) as database:
        await database.run(_statement("CREATE TABLE numbers (number INTEGER)"))
        yield database


def _statement(statement: str) -> Callable[[AsyncConnection], Awaitable[None]]:
    async def work(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql(statement)

    return work


async def numbers(database: SqlDatabase) -> list[int]:
    return [row.number for row in await database.read(text("SELECT number FROM numbers"))]


async def test_a_block_is_committed_at_its_end(counters: SqlDatabase) -> None:
    await counters.run(_statement("INSERT INTO numbers VALUES (1)"))
    assert await numbers(counters) == [1]


async def test_an_error_in_the_block_rolls_back(counters: SqlDatabase) -> None:
    with pytest.raises(LookupError):  # noqa: PT012 - the block is what is tested
        async with counters.transaction() as connection:
            await connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
            raise LookupError
    assert await numbers(counters) == []


async def test_a_dry_run_is_rolled_back(counters: SqlDatabase) -> None:
    await counters.run(_statement("INSERT INTO numbers VALUES (1)"), dry_run=True)
    assert await numbers(counters) == []


async def test_a_cancelled_transaction_is_rolled_back(counters: SqlDatabase) -> None:
    inserted = asyncio.Event()

    async def work(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
        inserted.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(counters.run(work))
    await inserted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await numbers(counters) == []


def _collision(code: int) -> DBAPIError:
    return DBAPIError("UPDATE", {}, Exception(code, "deadlock"))


@pytest.mark.parametrize("code", [1205, 1213])
async def test_a_collision_is_retried(counters: SqlDatabase, code: int) -> None:
    attempts = count(1)

    async def work(connection: AsyncConnection) -> int:
        await connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
        if (attempt := next(attempts)) < 3:
            raise _collision(code)
        return attempt

    assert await counters.run(work) == 3
    assert await numbers(counters) == [1]


async def test_a_transaction_that_always_collides_is_unavailable(counters: SqlDatabase) -> None:
    attempts = count()

    async def work(_connection: AsyncConnection) -> None:
        next(attempts)
        raise _collision(1213)

    with pytest.raises(DatabaseUnavailable):
        await counters.run(work)
    assert next(attempts) == 5


async def test_another_error_is_not_retried(counters: SqlDatabase) -> None:
    attempts = count()

    async def work(_connection: AsyncConnection) -> None:
        next(attempts)
        raise _collision(1054)

    with pytest.raises(DatabaseUnavailable):
        await counters.run(work)
    assert next(attempts) == 1


async def test_an_error_of_the_commit_is_uncertain(
    counters: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_connection: AsyncConnection) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(AsyncConnection, "commit", fail)
    with pytest.raises(CommitUncertain):
        await counters.run(_statement("INSERT INTO numbers VALUES (1)"))


async def test_transactions_of_one_process_hand_over_the_lock_of_sqlite(
    counters: SqlDatabase,
) -> None:
    running = 0

    async def work(connection: AsyncConnection) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
        running -= 1

    await asyncio.gather(*(counters.run(work) for _ in range(5)))
    assert await numbers(counters) == [1] * 5


async def test_a_connection_returns_to_the_pool_after_an_error(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    async with SqlDatabase(f"sqlite+aiosqlite:///{tmp_path}/media.db", settings) as database:
        for _ in range(3 * settings.pool_size):
            with pytest.raises(DatabaseUnavailable):
                await database.read(text("SELECT nonsense"))


async def test_a_block_that_takes_too_long_is_unavailable(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    settings = settings.model_copy(update={"query_timeout_s": 0.2})
    url = f"sqlite+aiosqlite:///{tmp_path}/media.db"
    with pytest.raises(DatabaseUnavailable) as caught:
        async with single_connection(url, settings):
            await asyncio.Event().wait()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    "error",
    [
        LookupError(),
        RuntimeError("generator raised StopIteration"),
        NotImplementedError(),
        RecursionError(),
        FileNotFoundError(2, "no such file"),
        TimeoutError("of another part"),
        EOFError(),
        InvalidRequestError("a wrong use of SQLAlchemy"),
    ],
    ids=repr,
)
async def test_an_error_of_the_callers_own_code_is_not_one_of_the_database(
    error: Exception, counters: SqlDatabase
) -> None:
    async def work(_connection: AsyncConnection) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await counters.run(work)
    assert caught.value is error


async def test_a_query_that_cannot_be_compiled_is_a_bug(counters: SqlDatabase) -> None:
    with pytest.raises(StatementError) as caught:
        await counters.read(text("SELECT :missing"))
    assert not isinstance(caught.value, DBAPIError)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to perform operation on <TCPTransport closed=True>"),
        ConnectionResetError(104, "reset"),
        EOFError(),
    ],
    ids=repr,
)
async def test_an_error_of_the_network_in_a_driver_call_is_one_of_the_database(
    error: Exception, counters: SqlDatabase
) -> None:
    def fail(*_call: object) -> None:
        raise error

    event.listen(counters.engine.sync_engine, "handle_error", lost_connection)
    event.listen(counters.engine.sync_engine, "do_execute", fail)
    with pytest.raises(DatabaseUnavailable) as caught:
        await counters.read(text("SELECT 1"))
    assert driver_error(caught.value) is error


async def test_a_closed_reader_is_unavailable(tmp_path: Path, settings: DatabaseSettings) -> None:
    reader = ThreadReader(tmp_path / "media.db", settings)
    assert (await reader.read(text("SELECT :one"), {"one": 1}))[0][0] == 1
    await reader.aclose()
    with pytest.raises(DatabaseUnavailable):
        await reader.read(text("SELECT 1"), {})
