"""Bring a database to the tables that this version works with, by the migrations beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import ConfigurationError
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import connected, dispose, open_engine, translated

UPGRADE_TIMEOUT_S = 60.0
"""For how long another process's upgrade is waited for, and our own may take."""

REVISIONS = ("0001", "0002", "0003", "0004")
"""All versions of the media schema, the oldest first, as the migrations have them."""
MAIN_REVISIONS = ("0001", "0002")
"""The same of the main schema."""
_GET_LOCK = text("SELECT GET_LOCK(CONCAT('smartserve.', MD5(DATABASE())), :timeout_s)")


@dataclass(frozen=True, slots=True)
class DatabaseSchema:
    """A set of tables with migrations, and versions, of its own."""

    scripts: str
    """The folder of its migrations, beside this module."""
    version_table: str
    """Not alembic's own name: another program of the same database may keep its versions there."""
    revisions: tuple[str, ...]
    own: bool = True
    """Whether the database is ours. In one of another program only what is missing is made."""
    enough: str = ""
    """The table that is all we need in a database of another program."""


MEDIA = DatabaseSchema("migrations", "smartserve_version", REVISIONS)


def main_schema(*, own: bool) -> DatabaseSchema:
    """Queue and profiles; of a main database that is not our ``own`` the queue alone."""
    return DatabaseSchema(
        "migrations_main", "smartserve_main_version", MAIN_REVISIONS, own, "pending_images"
    )


async def upgrade(
    url: str,
    settings: DatabaseSettings,
    *,
    schema: DatabaseSchema = MEDIA,
    timeout_s: float = UPGRADE_TIMEOUT_S,
) -> bool:
    """Bring the database up to date; gives whether anything had to be done.

    Several processes may do so at once: one works, the others wait for it and find it done. On
    SQLite all is done or nothing; MySQL and MariaDB commit each table, and a run that was cut off
    is completed by the next.

    Raises:
        DatabaseUnavailable: it cannot be reached, refuses, or another process holds the lock.
        ConfigurationError: a newer version of the program has upgraded it.
    """
    async with _own_connection(url, settings, timeout_s) as connection:
        await _lock(connection, timeout_s)
        changed = await connection.run_sync(_upgrade, schema)
        await connection.commit()
        return changed


async def pending(url: str, settings: DatabaseSettings, *, schema: DatabaseSchema = MEDIA) -> bool:
    """Whether `upgrade` has something to do; changes nothing.

    Raises:
        DatabaseUnavailable: it cannot be reached.
        ConfigurationError: a newer version of the program has upgraded it.
    """
    async with _own_connection(url, settings, settings.query_timeout_s) as connection:
        return await connection.run_sync(_pending, schema)


async def standing(
    url: str, settings: DatabaseSettings, *, schema: DatabaseSchema = MEDIA
) -> tuple[str | None, bool]:
    """The version that a schema has, where the database tells, and whether `upgrade` has work.

    Raises as `pending` does.
    """
    async with _own_connection(url, settings, settings.query_timeout_s) as connection:
        version = await connection.run_sync(_version, schema)
        return version, await connection.run_sync(_pending, schema)


@asynccontextmanager
async def _own_connection(
    url: str, settings: DatabaseSettings, timeout_s: float
) -> AsyncIterator[AsyncConnection]:
    """A connection of its own, closed at the end, with which its lock goes."""
    engine = open_engine(url, settings.model_copy(update={"query_timeout_s": timeout_s}))
    try:
        with translated(settings):
            async with asyncio.timeout(timeout_s), connected(engine, settings) as connection:
                yield connection
    finally:
        await dispose(engine)


async def _lock(connection: AsyncConnection, timeout_s: float) -> None:
    """Keep other upgrades out; in SQLite by the transaction in which all of this one happens."""
    if connection.dialect.name == "sqlite":
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif not await connection.scalar(_GET_LOCK, {"timeout_s": timeout_s}):
        raise TimeoutError("another process is upgrading the database")


def _upgrade(connection: Connection, schema: DatabaseSchema) -> bool:
    if not _pending(connection, schema):
        return False
    from proxy.storage.database import alembic_runner  # noqa: PLC0415

    alembic_runner.run(
        connection,
        scripts=schema.scripts,
        version_table=schema.version_table,
        own=schema.own,
    )
    return True


def _version(connection: Connection, schema: DatabaseSchema) -> str | None:
    table = schema.version_table
    if not inspect(connection).has_table(table):
        return None
    found = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608 - ours
    return None if found is None else str(found)


def _pending(connection: Connection, schema: DatabaseSchema) -> bool:
    inspector = inspect(connection)
    current = _version(connection, schema)
    told = inspector.has_table(schema.version_table)
    if not told and not schema.own and inspector.has_table(schema.enough):
        return False
    if current not in {None, *schema.revisions}:
        raise ConfigurationError(
            [f"database: is at version {current}, which a newer smartserve has made"]
        )
    return current != schema.revisions[-1]
