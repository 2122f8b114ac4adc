"""Runs the alembic migrations, and creates what is missing of a table.

Importing alembic takes about 0.1 s. Only an upgrade that has work to do imports this module.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection, Table, inspect, text

from proxy.storage.database.tables import SHARED

_HERE = Path(__file__).parent
_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS TABLE_touched AFTER UPDATE ON TABLE
FOR EACH ROW WHEN new.updated_at IS old.updated_at
BEGIN
    UPDATE TABLE SET updated_at = CURRENT_TIMESTAMP WHERE id = new.id;
END
"""


def run(connection: Connection, *, scripts: str, version_table: str, own: bool) -> None:
    """Upgrade a schema to its newest version in the connection's transaction."""
    config = script_config(scripts)
    # `migrations/env.py` and the migrations read these.
    config.attributes.update(connection=connection, version_table=version_table, own=own)
    command.upgrade(config, "head")


def create_missing(*tables: Table) -> None:
    """Create the tables and indexes that do not exist.

    A table exists already if it belongs to another program, or if an upgrade was interrupted: MySQL
    cannot roll back DDL. Tables are created as `tables` defines them today, so a migration that
    changes a table must find out first whether that has been done.
    """
    bind = op.get_bind()
    for table in tables:
        created = not inspect(bind).has_table(table.name)
        table.create(bind, checkfirst=True)
        # SQLite has no ON UPDATE CURRENT_TIMESTAMP; a trigger replaces it.
        has_timestamp = "updated_at" in table.c and table.c.updated_at.server_default is not None
        if created and has_timestamp and bind.dialect.name == "sqlite":
            op.execute(_TRIGGER.replace("TABLE", table.name))
        # An interrupted upgrade may have created the table without its indexes. Those of a table
        # that may belong to another program are left to its operator.
        if created or table.name not in SHARED:
            create_indexes(table)


def create_indexes(table: Table) -> None:
    """Create the indexes of a table that do not exist."""
    for index in table.indexes:
        index.create(op.get_bind(), checkfirst=True)


def is_own(table: Table) -> bool:
    """Return whether our migrations have certainly created a table that may be another program's.

    Only SQLite shows it, by the trigger: an earlier version has created the same columns on MySQL
    as another program would.
    """
    bind = op.get_bind()
    trigger = text("SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = :name")
    return (
        bind.dialect.name == "sqlite"
        and bind.scalar(trigger, {"name": f"{table.name}_touched"}) is not None
    )


def script_config(scripts: str) -> Config:
    """Return the configuration of one series of migrations."""
    config = Config()
    # ConfigParser interpolates %, so a % in the path must be doubled.
    location = str(_HERE / "migrations").replace("%", "%%")
    config.set_main_option("script_location", location)
    # The default separator is a space, which the path may contain.
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{location}/{scripts}")
    return config
