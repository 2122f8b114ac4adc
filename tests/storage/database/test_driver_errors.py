"""What operators read about each error of a driver; real servers cause those that they can."""

from __future__ import annotations

import socket
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from aiomysql import DataError as MySQLDataError
from aiomysql import IntegrityError as MySQLIntegrityError
from aiomysql import OperationalError as MySQLOperationalError
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from proxy.domain.errors import DatabaseUnavailable, RowRejected
from proxy.settings import DatabaseSettings
from proxy.storage.database.driver_errors import DatabaseAddress, driver_text, unavailable
from proxy.storage.database.schema import main_schema, upgrade
from proxy.storage.database.transactions import SqlDatabase
from tests.support.mariadb import MariaDB
from tests.support.mounts import Mount
from tests.support.ports import free_port

_ADDRESS = DatabaseAddress("db:3306/media", "main.url")


def explained(cause: BaseException, *, connecting: bool = False) -> DatabaseUnavailable:
    return unavailable(cause, _ADDRESS, retry_after_s=7, connecting=connecting)


def mysql(
    code: int, message: str = "server text", cause: OSError | None = None
) -> OperationalError:
    inner = MySQLOperationalError(code, message)
    inner.__cause__ = cause
    return OperationalError("SELECT secret", {}, inner)


@pytest.mark.parametrize(
    ("error", "text", "advice"),
    [
        (mysql(1045), "server text", "User or password is wrong"),
        (mysql(1130), "server text", "may not connect from this machine"),
        (mysql(2003, cause=socket.gaierror(-2, "unknown")), "(unknown)", "main.url cannot be res"),
        (mysql(2003, cause=ConnectionRefusedError(111, "refused")), "(refused)", "Is it running"),
        (mysql(2003, cause=TimeoutError(110, "timed out")), "(timed out)", "Is it running"),
        (mysql(2003, cause=ssl.SSLError(1, "bad certificate")), "(bad certificate)", "TLS"),
        (mysql(3159), "server text", "TLS"),
        (mysql(1114), "server text", "disk of the database is full"),
        (mysql(1026, "Error writing (errno: 28 x)"), "errno: 28", "disk of the database is full"),
        (mysql(1146), "server text", "smartserve db upgrade"),
        (mysql(1054), "server text", "smartserve db upgrade"),
        (mysql(1142), "server text", "permission"),
        (mysql(1040), "server text", "max_connections"),
        (mysql(1226), "server text", "max_connections"),
        (mysql(1290), "server text", "accepts no changes"),
        (mysql(1049), "server text", "CREATE DATABASE"),
        (mysql(2013), "server text", "closed the connection"),
        (mysql(1064), "server text", "bug of smartserve"),
        (mysql(9999), "server text", "See the log of the database"),
        (OSError(104, "reset by peer"), "reset by peer", "closed the connection"),
        (RuntimeError("the handler is closed"), "handler is closed", "closed the connection"),
        (TimeoutError(), "no answer in time", "query_timeout_s"),
        (PoolTimeout("QueuePool limit"), "connections of the pool are in use", "pool_size"),
        (sqlite3.OperationalError("no such table: x"), "no such table", "smartserve db upgrade"),
    ],
)
def test_each_error_has_its_own_sentence_and_advice(
    error: BaseException, text: str, advice: str
) -> None:
    found = explained(error)
    assert text in found.explanation
    assert advice in found.advice
    assert "secret" not in found.reason
    assert "db:3306/media" in found.reason
    assert found.reason not in found.detail


def test_a_connection_that_fails_is_told_apart_from_a_statement() -> None:
    assert explained(mysql(1045), connecting=True).reason.startswith("Cannot connect to")
    assert "did not complete a statement" in explained(mysql(1146)).reason


def test_the_message_of_a_driver_has_one_line_and_no_statement() -> None:
    assert driver_text(mysql(1045, "Access denied\n for user")) == "Access denied for user"


@pytest.mark.parametrize(
    "error",
    [
        *map(mysql, (1292, 1690, 3140, 3157, 3819, 4025)),
        # PyMySQL's classes of 1264, 1366 and 1406, and of 1048 and 1062.
        DataError("INSERT", {}, MySQLDataError(1406, "server text")),
        IntegrityError("INSERT", {}, MySQLIntegrityError(1062, "server text")),
        IntegrityError("INSERT", {}, sqlite3.IntegrityError("server text")),
    ],
)
def test_a_rejected_value_is_told_apart_from_an_outage(error: Exception) -> None:
    rejected = explained(error)
    assert isinstance(rejected, RowRejected)
    assert rejected.retry_after_s is None
    assert rejected.reason == (
        "The database at db:3306/media rejected a row: server text."
        " A retry does not help: the column does not accept the value."
    )


@pytest.mark.parametrize("code", [1205, 1213, 1040, 1114, 1146, 1364, 2013])
def test_an_error_that_concerns_all_rows_is_no_rejected_value(code: int) -> None:
    assert type(explained(mysql(code))) is DatabaseUnavailable


async def test_a_constraint_of_sqlite_rejects_the_row(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/media.db"
    async with SqlDatabase(url, settings) as database:
        table = text("CREATE TABLE numbers (one INTEGER CHECK (one < 5))")
        await database.run(lambda connection: connection.execute(table))
        insert = text("INSERT INTO numbers VALUES (7)")
        with pytest.raises(RowRejected) as caught:
            await database.run(lambda connection: connection.execute(insert))
    assert "CHECK constraint failed" in caught.value.reason


async def reason(url: str, settings: DatabaseSettings, query: str = "SELECT 1") -> str:
    async with SqlDatabase(url, settings) as database:
        with pytest.raises(DatabaseUnavailable) as caught:
            await database.run(lambda connection: connection.execute(text(query)))
    return caught.value.reason


async def test_a_full_disk_is_named_for_sqlite(
    tmp_path: Path, mounted: Mount, settings: DatabaseSettings
) -> None:
    with mounted(tmp_path / "small", "size=1m"):
        url = f"sqlite+aiosqlite:///{tmp_path}/small/media.db"
        query = "CREATE TABLE big AS SELECT randomblob(3000000) AS content"
        assert "disk of the database is full" in await reason(url, settings, query)


@pytest.mark.parametrize(
    ("query", "advice"),
    [
        ("SELECT * FROM nowhere", "smartserve db upgrade"),
        ("SELECT absent FROM sqlite_master", "smartserve db upgrade"),
        ("SELEKT", "bug of smartserve"),
    ],
)
async def test_a_rejected_statement_of_sqlite_is_explained(
    query: str, advice: str, tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/media.db"
    found = await reason(url, settings, query)
    assert advice in found
    assert f"{tmp_path}/media.db" in found


@pytest.mark.slow
async def test_a_locked_and_a_damaged_file_are_told_apart(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    # Long enough for a busy machine, because SQLite waits for this time.
    quick = settings.model_copy(update={"query_timeout_s": 3})
    file = tmp_path / "media.db"
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("BEGIN IMMEDIATE")
        assert "another program is writing" in await reason(f"sqlite+aiosqlite:///{file}", quick)
    file.write_bytes(b"no database" * 1000)
    assert "restore it from a backup" in await reason(f"sqlite+aiosqlite:///{file}", settings)


@pytest.fixture
def account(mariadb: MariaDB) -> Iterator[str]:
    """The URL of an account with few rights, without host and database."""
    mariadb.execute(
        "CREATE USER IF NOT EXISTS few@'%' IDENTIFIED BY 'right-password';"
        "ALTER USER few@'%' REQUIRE NONE WITH MAX_USER_CONNECTIONS 0"
    )
    yield f"@127.0.0.1:{mariadb.port}/"
    mariadb.execute("DROP USER few@'%'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "url", "query", "expected"),
    [
        ("", "few:wrong{at}{name}", "SELECT 1", "User or password is wrong"),
        ("", "few:right-password{at}{name}", "SELECT 1", "may not use this database"),
        (
            "GRANT SELECT ON {name}.* TO few@'%'",
            "few:right-password{at}{name}",
            "CREATE TABLE x (id INT)",
            "lacks a permission",
        ),
        (
            "GRANT SELECT ON {name}.* TO few@'%'",
            "few:right-password{at}{name}",
            "SELECT * FROM nowhere",
            "A table or column is missing",
        ),
        (
            "GRANT SELECT ON {name}.* TO few@'%' REQUIRE SSL",
            "few:right-password{at}{name}",
            "SELECT 1",
            "User or password is wrong",
        ),
        ("", "root{at}not_there", "SELECT 1", "CREATE DATABASE"),
        ("", "root@nowhere.invalid/{name}", "SELECT 1", "cannot be resolved"),
        ("", "root@127.0.0.1:{free}/{name}", "SELECT 1", "Is it running"),
    ],
)
async def test_mariadb_errors_are_explained_without_the_password(
    statement: str,
    url: str,
    query: str,
    expected: str,
    account: str,
    mariadb: MariaDB,
    settings: DatabaseSettings,
) -> None:
    name = mariadb.create_database()
    mariadb.execute(statement.format(name=name) or "SELECT 1")
    filled = url.format(at=account, name=name, free=free_port())
    found = await reason(f"mysql+aiomysql://{filled}", settings, query)
    assert expected in found
    assert not any(secret in found for secret in ("right-password", "few:wrong"))


@pytest.mark.slow
async def test_too_many_connections_are_explained(
    account: str, mariadb: MariaDB, settings: DatabaseSettings
) -> None:
    name = mariadb.create_database()
    mariadb.execute(f"GRANT SELECT ON {name}.* TO few@'%' WITH MAX_USER_CONNECTIONS 1")
    url = f"mysql+aiomysql://few:right-password{account}{name}"
    async with SqlDatabase(url, settings) as database, database.connection():
        assert "max_connections" in await reason(url, settings)


async def test_the_setting_of_the_main_database_is_named(
    settings: DatabaseSettings,
) -> None:
    url = f"mysql+aiomysql://root@127.0.0.1:{free_port()}/main"
    with pytest.raises(DatabaseUnavailable) as caught:
        await upgrade(url, settings, schema=main_schema(own=False))
    assert "host and port in main.url" in caught.value.reason
