"""Upgrades a database to the schema of this version, and reports which version it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    Index,
    Inspector,
    MetaData,
    Table,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateIndex

from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.settings import DatabaseSettings
from proxy.storage.database import profile_columns, tables
from proxy.storage.database.tables import SHARED
from proxy.storage.database.transactions import single_connection

UPGRADE_TIMEOUT_S = 60.0
"""Limits the wait for another process's upgrade, and our own upgrade."""
INDEX_TIMEOUT_S = 6 * 3600.0
"""Limits `create_indexes`."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_GET_LOCK = text("SELECT GET_LOCK(CONCAT('smartserve.', MD5(DATABASE())), :timeout_s)")


@dataclass(frozen=True, slots=True)
class DatabaseSchema:
    """A set of tables with its own migrations and versions."""

    scripts: str
    """Name of the folder with its migrations, below ``migrations``."""
    version_table: str
    """Differs from alembic's default, which another program in the same database may use."""
    own: bool = True
    """False if the database belongs to another program; then only missing tables are created."""
    required_table: str = ""
    """The one table that must exist in a database of another program."""
    tables: MetaData = tables.metadata
    setting: str = "database.url"
    """The setting that names the database, for messages."""

    @property
    def revisions(self) -> list[str]:
        """All versions, oldest first: the numbers in the names of the migrations."""
        # Not from alembic, which takes 0.1 s to import.
        files = (_MIGRATIONS / self.scripts).glob("[0-9]*.py")
        return sorted(file.name.partition("_")[0] for file in files)


MEDIA = DatabaseSchema("media", "smartserve_version")


def main_schema(*, own: bool) -> DatabaseSchema:
    """Return the schema of the main database: the upload queue and, if it is our own, profiles."""
    # Our own tables are in the media database.
    setting = "database.url" if own else "main.url"
    return DatabaseSchema(
        "main",
        "smartserve_main_version",
        own,
        "pending_images",
        tables=profile_columns.metadata,
        setting=setting,
    )


async def upgrade(
    url: str,
    settings: DatabaseSettings,
    *,
    schema: DatabaseSchema = MEDIA,
    timeout_s: float = UPGRADE_TIMEOUT_S,
) -> bool:
    """Upgrade the database; return whether anything had to be done.

    Several processes may call this at once: one upgrades, the others wait and find it done. On
    SQLite the upgrade is atomic. MySQL and MariaDB commit each table, and the next call completes
    an interrupted upgrade.

    Raises:
        DatabaseUnavailable: the database cannot be reached, rejects a statement, or another process
            holds the lock for longer than ``timeout_s``.
        ConfigurationError: a newer version of the program has upgraded it.
    """
    bounded = settings.model_copy(update={"query_timeout_s": timeout_s})
    # The lock is bound to the connection, so it is released even if this process is killed.
    async with single_connection(url, bounded, setting=schema.setting) as connection:
        await _lock(connection, timeout_s)
        changed = await connection.run_sync(_upgrade, schema)
        await connection.commit()
        return changed


async def inspect_version(
    url: str, settings: DatabaseSettings, *, schema: DatabaseSchema = MEDIA
) -> tuple[str | None, bool]:
    """Return the version of a schema, None if it has none, and whether `upgrade` has work to do.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
        ConfigurationError: a newer version of the program has upgraded it.
    """
    async with single_connection(url, settings, setting=schema.setting) as connection:
        return await connection.run_sync(_inspect, schema)


async def missing_indexes(
    url: str, settings: DatabaseSettings, *, schema: DatabaseSchema = MEDIA
) -> list[str]:
    """Return the statements that `create_indexes` would run; raises DatabaseUnavailable."""
    async with single_connection(url, settings, setting=schema.setting) as connection:
        missing = await connection.run_sync(_missing_indexes, schema)
        return [str(one.compile(dialect=connection.dialect)) for one in missing]


async def create_indexes(
    url: str,
    settings: DatabaseSettings,
    *,
    schema: DatabaseSchema = MEDIA,
    announce: Callable[[str], object],
) -> None:
    """Create the missing indexes, also in tables of another program; ``announce`` gets each first.

    On a large table a statement takes minutes; MariaDB and MySQL accept changes of rows meanwhile.

    Raises:
        DatabaseUnavailable: the database rejects a statement; the indexes before it exist.
    """
    bounded = settings.model_copy(update={"query_timeout_s": INDEX_TIMEOUT_S})
    async with single_connection(url, bounded, setting=schema.setting) as connection:
        await _lock(connection, UPGRADE_TIMEOUT_S)
        for statement in await connection.run_sync(_missing_indexes, schema):
            announce(str(statement.compile(dialect=connection.dialect)))
            await connection.execute(statement)
        await connection.commit()


def _missing_indexes(connection: Connection, schema: DatabaseSchema) -> list[CreateIndex]:
    inspector = inspect(connection)
    names = SHARED & set(schema.tables.tables) & set(inspector.get_table_names())
    return [
        _create_index(name, columns)
        for name in sorted(names)
        for columns in _searched_columns(schema.tables.tables[name])
        # An index with further columns serves as well.
        if not any(key[: len(columns)] == columns for key in _keys(inspector, name))
    ]


def _keys(inspector: Inspector, table: str) -> list[list[str | None]]:
    """Return the columns of each index and each unique constraint; an expression is None."""
    unique = inspector.get_unique_constraints(table)
    columns: list[list[str | None]] = [[*one["column_names"]] for one in unique]
    return [*columns, *(one["column_names"] for one in inspector.get_indexes(table))]


def _searched_columns(table: Table) -> Iterator[list[str]]:
    """Yield the columns of each index that our definition has, and of each unique constraint."""
    for index in sorted(table.indexes, key=str):
        yield [column.name for column in index.columns]
    for constraint in table.constraints:
        # A unique index could fail on the rows of another program; a plain one serves queries too.
        if isinstance(constraint, UniqueConstraint):
            yield [column.name for column in constraint.columns]


def _create_index(table: str, columns: list[str]) -> CreateIndex:
    # A table of its own: an index of the shared definition would become a part of it.
    definition = Table(table, MetaData(), *map(Column, columns))
    return CreateIndex(Index(f"ix_{table}_{'_'.join(columns)}", *definition.c))


async def _lock(connection: AsyncConnection, timeout_s: float) -> None:
    """Exclude other upgrades: with a named lock, in SQLite with a write transaction."""
    if connection.dialect.name == "sqlite":
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    # The name contains the database: several installations may share a server.
    elif not await connection.scalar(_GET_LOCK, {"timeout_s": timeout_s}):
        raise DatabaseUnavailable(
            "Another process is upgrading the database. Retry later.",
            reason=f"Another process has been upgrading the database for {timeout_s:g} s.",
            advice="Wait for it, or end it: SHOW PROCESSLIST lists the connections.",
        )


def _upgrade(connection: Connection, schema: DatabaseSchema) -> bool:
    # Checked under the lock: another process may have upgraded meanwhile.
    _, outdated = _inspect(connection, schema)
    if outdated:
        # Imported here: alembic takes 0.1 s to import, and most starts have nothing to upgrade.
        from proxy.storage.database import alembic_runner  # noqa: PLC0415

        table = schema.version_table
        alembic_runner.run(connection, scripts=schema.scripts, version_table=table, own=schema.own)
    return outdated


def _inspect(connection: Connection, schema: DatabaseSchema) -> tuple[str | None, bool]:
    """Return the version of a schema, and whether it is older than this program's."""
    version, inspector = None, inspect(connection)
    if inspector.has_table(schema.version_table):
        query = text(f"SELECT version_num FROM {schema.version_table}")  # noqa: S608 - ours
        version = connection.scalar(query)
    # The queue exists and belongs to another program: nothing is missing.
    elif not schema.own and inspector.has_table(schema.required_table):
        return None, False
    revisions = schema.revisions
    # An older program does not know what a newer schema requires, so it must not write.
    if version not in {None, *revisions}:
        raise ConfigurationError(
            [f"database: schema version {version} was created by a newer smartserve; install that"]
        )
    return version, version != revisions[-1]
