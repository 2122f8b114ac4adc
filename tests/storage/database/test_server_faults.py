"""A real MariaDB that is killed, paused or cut off: every query ends with its deadline.

Without the deadlines these tests would hang, so they measure no times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import uvloop
from sqlalchemy import QueuePool, event

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import MediaFacts
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import open_engine
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import inspect_version, upgrade
from proxy.storage.database.transactions import SqlDatabase
from tests.faults.tcpproxy import TcpProxy
from tests.support.mariadb import MariaDB
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_CONNECT_TIMEOUT_S = 0.4
_QUERY_TIMEOUT_S = 0.6


@pytest.fixture
def settings() -> DatabaseSettings:
    return DatabaseSettings(
        connect_timeout_s=_CONNECT_TIMEOUT_S,
        query_timeout_s=_QUERY_TIMEOUT_S,
        retry_after_s=7,
        pool_size=2,
    )


@pytest.fixture
def server(mariadb: MariaDB) -> Iterator[MariaDB]:
    """The server, running again for the next test whatever was done to it."""
    yield mariadb
    mariadb.resume()
    if not mariadb.running:
        mariadb.start()


@pytest.fixture
async def database(
    server: MariaDB, settings: DatabaseSettings
) -> AsyncIterator[SqlMediaRepository]:
    """A database whose pool holds a connection that has been used."""
    url = server.url(server.create_database())
    await upgrade(url, DatabaseSettings())
    async with SqlMediaRepository(url, settings) as database:
        await database.ping()
        yield database


async def test_a_killed_server_is_unavailable_in_time(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.kill()
    with pytest.raises(DatabaseUnavailable):
        await database.find(1)


async def test_unavailable_says_when_to_come_back(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.kill()
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.find(1)
    assert caught.value.retry_after_s == 7


async def test_a_restarted_server_is_used_at_once(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.kill()
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    server.start()
    assert await database.find(1) is None


async def test_a_restart_between_two_queries_is_not_noticed(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.stop()
    server.start()
    assert await database.find(1) is None


async def test_a_server_killed_in_a_query_is_unavailable(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.pause()
    assert isinstance(database._reader, SqlDatabase)
    pool = cast(QueuePool, database._reader.engine.pool)
    query = asyncio.create_task(database.find(1))
    await eventually(lambda: pool.checkedout() == 1)
    server.kill()
    with pytest.raises(DatabaseUnavailable):
        await query


async def test_a_paused_server_is_unavailable_in_time(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.pause()
    with pytest.raises(DatabaseUnavailable):
        await database.find(1)


async def test_a_paused_server_is_unavailable_in_time_to_a_new_connection(
    server: MariaDB, settings: DatabaseSettings
) -> None:
    url = server.url(server.create_database())
    server.pause()
    async with SqlMediaRepository(url, settings) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.ping()


async def test_many_who_wait_for_a_paused_server_are_all_refused_in_time(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.pause()
    ends = await asyncio.gather(*(database.find(n) for n in range(20)), return_exceptions=True)
    assert all(isinstance(end, DatabaseUnavailable) for end in ends)


async def test_a_resumed_server_is_used_at_once(
    database: SqlMediaRepository, server: MariaDB
) -> None:
    server.pause()
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    server.resume()
    await database.ping()


async def test_errors_are_counted(database: SqlMediaRepository, server: MariaDB) -> None:
    server.kill()
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    assert database.statistics()["errors"] == 1


async def test_a_server_that_is_down_cannot_be_upgraded(
    server: MariaDB, settings: DatabaseSettings
) -> None:
    url = server.url(server.create_database())
    server.kill()
    with pytest.raises(DatabaseUnavailable):
        (await inspect_version(url, settings))[1]


async def test_an_upgrade_gives_up_on_the_lock_of_another(
    server: MariaDB, settings: DatabaseSettings
) -> None:
    url = server.url(server.create_database())
    engine = open_engine(url, settings)
    async with engine.connect() as other:
        await other.exec_driver_sql("SELECT GET_LOCK(CONCAT('smartserve.', MD5(DATABASE())), 0)")
        with pytest.raises(DatabaseUnavailable):
            await upgrade(url, settings, timeout_s=0.2)
    await engine.dispose()


async def test_tables_that_are_missing_are_unavailable(
    server: MariaDB, settings: DatabaseSettings
) -> None:
    async with SqlMediaRepository(server.url(server.create_database()), settings) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.find(1)


async def test_a_write_that_waits_for_a_lock_is_refused_in_time(
    server: MariaDB, settings: DatabaseSettings, facts: MediaFacts
) -> None:
    url = server.url(server.create_database())
    await upgrade(url, settings)
    engine = open_engine(url, settings)
    async with SqlMediaRepository(url, settings) as database, engine.connect() as other:
        await database.save_facts(1, facts, since=0)
        await other.exec_driver_sql("SELECT media_id FROM media_facts FOR UPDATE")
        with pytest.raises(DatabaseUnavailable):
            await database.save_facts(1, facts, since=0)
    await engine.dispose()


@pytest.mark.parametrize(
    "lock",
    ["LOCK TABLES media_files WRITE, media_facts WRITE", "SELECT * FROM media_facts FOR UPDATE"],
)
async def test_writes_that_gave_up_on_a_lock_leave_no_session_behind(
    server: MariaDB, settings: DatabaseSettings, facts: MediaFacts, lock: str
) -> None:
    name = server.create_database()
    await upgrade(server.url(name), settings)
    engine = open_engine(server.url(name), settings)
    count = f"SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{name}'"
    async with (
        SqlMediaRepository(server.url(name), settings) as database,
        engine.connect() as other,
    ):
        await database.save_facts(1, facts, since=0)
        await other.exec_driver_sql(lock)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                await database.save_facts(1, facts, since=0)
        await eventually(lambda: server.execute(count).strip() == "1")
    await engine.dispose()


async def test_connections_that_were_forgotten_on_the_way_are_replaced_in_one_query(
    server: MariaDB, settings: DatabaseSettings
) -> None:
    """As behind a firewall that has lost its state: nothing comes back, not even a reset."""
    name = server.create_database()
    await upgrade(server.url(name), settings)
    async with TcpProxy(server.port) as network:
        url = server.url(name).replace(str(server.port), str(network.port))
        async with SqlMediaRepository(url, settings) as database:
            await asyncio.gather(*(database.ping() for _ in range(4)))
            network.go_silent()
            await network.heal()
            await database.ping()


def test_connections_that_were_reset_are_replaced_in_one_query(
    mariadb: MariaDB, settings: DatabaseSettings
) -> None:
    """On uvloop, which has an error of its own for writing to such a connection."""

    async def outlive() -> None:
        name = mariadb.create_database()
        await upgrade(mariadb.url(name), settings)
        async with TcpProxy(mariadb.port) as network:
            url = mariadb.url(name).replace(str(mariadb.port), str(network.port))
            async with SqlMediaRepository(url, settings) as database:
                reader = database._reader
                assert isinstance(reader, SqlDatabase)
                engine = reader.engine.sync_engine
                opened: list[Any] = []
                event.listen(engine, "connect", lambda one, _: opened.append(one))
                await database.ping()
                network.reset()
                transport = opened[0].driver_connection._writer.transport
                await eventually(transport.is_closing)
                await database.ping()

    uvloop.run(outlive())
