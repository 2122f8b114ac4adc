"""Bring a database to the tables that this version works with, by the migrations beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.database.engine import connected, dispose, open_engine, translated
from proxy.errors import ConfigurationError
from proxy.settings import DatabaseSettings

UPGRADE_TIMEOUT_S = 60.0
"""For how long another process's upgrade is waited for, and our own may take."""

_SCRIPTS = Path(__file__).parent / "migrations"
# Not alembic's own name: another program of the same database may keep its versions there.
_VERSION_TABLE = "smartserve_version"
_GET_LOCK = text("SELECT GET_LOCK(CONCAT('smartserve.', MD5(DATABASE())), :timeout_s)")


async def upgrade(
    url: str, settings: DatabaseSettings, *, timeout_s: float = UPGRADE_TIMEOUT_S
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
        changed = await connection.run_sync(_upgrade)
        await connection.commit()
        return changed


async def pending(url: str, settings: DatabaseSettings) -> bool:
    """Whether `upgrade` has something to do; changes nothing.

    Raises:
        DatabaseUnavailable: it cannot be reached.
        ConfigurationError: a newer version of the program has upgraded it.
    """
    async with _own_connection(url, settings, settings.query_timeout_s) as connection:
        return await connection.run_sync(_pending)


@asynccontextmanager
async def _own_connection(
    url: str, settings: DatabaseSettings, timeout_s: float
) -> AsyncIterator[AsyncConnection]:
    """A connection of its own, closed at the end, with which its lock goes."""
    engine = open_engine(url, settings)
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


def _upgrade(connection: Connection) -> bool:
    if not _pending(connection):
        return False
    config = _config()
    config.attributes["connection"] = connection
    config.attributes["version_table"] = _VERSION_TABLE
    command.upgrade(config, "head")
    return True


def _pending(connection: Connection) -> bool:
    scripts = ScriptDirectory.from_config(_config())
    context = MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE})
    current = context.get_current_revision()
    if current not in {None, *(script.revision for script in scripts.walk_revisions())}:
        raise ConfigurationError(
            [f"database: is at version {current}, which a newer smartserve has made"]
        )
    return current != scripts.get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
