"""Runs the alembic migrations, and contains the builders that the migrations share.

Importing alembic takes about 0.1 s. Only an upgrade that has work to do imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import mysql

_HERE = Path(__file__).parent
_NOW = sa.text("CURRENT_TIMESTAMP")


def run(connection: sa.Connection, *, scripts: str, version_table: str, own: bool) -> None:
    """Upgrade a schema to its newest version in the connection's transaction."""
    config = _config(scripts)
    config.attributes.update(connection=connection, version_table=version_table, own=own)
    command.upgrade(config, "head")


def revisions(scripts: str = "migrations") -> list[str]:
    """Return all versions of a schema, oldest first."""
    directory = ScriptDirectory.from_config(_config(scripts))
    return [script.revision for script in directory.walk_revisions()][::-1]


def _config(scripts: str) -> Config:
    config = Config()
    # ConfigParser interpolates %, so a % in the path must be doubled.
    config.set_main_option("script_location", str(_HERE / scripts).replace("%", "%%"))
    return config


_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS TABLE_touched AFTER UPDATE ON TABLE
FOR EACH ROW WHEN new.updated_at IS old.updated_at
BEGIN
    UPDATE TABLE SET updated_at = CURRENT_TIMESTAMP WHERE id = new.id;
END
"""

# Released migrations call the functions below: what these produce must not change.


def create_table(name: str, *columns: sa.Column[Any], reuse_ids: bool = True) -> None:
    """Create a table unless it exists; with ``reuse_ids=False`` SQLite never reuses a row id.

    The table exists already if it belongs to another program, or if an upgrade was interrupted:
    MySQL cannot roll back DDL.
    """
    bind = op.get_bind()
    if sa.inspect(bind).has_table(name):
        return
    options: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}
    op.create_table(name, *columns, sqlite_autoincrement=not reuse_ids, **options)
    updated_at = {column.name: column for column in columns}.get("updated_at")
    # SQLite has no ON UPDATE CURRENT_TIMESTAMP; a trigger replaces it.
    if bind.dialect.name == "sqlite" and updated_at is not None and updated_at.server_default:
        op.execute(_TRIGGER.replace("TABLE", name))


def create_indexes(table: str, indexes: Mapping[str, Sequence[str]]) -> None:
    """Create the indexes that a table lacks."""
    inspector = sa.inspect(op.get_bind())
    for name, columns in indexes.items():
        if not inspector.has_index(table, name):
            op.create_index(name, table, list(columns))


def auto_id() -> sa.Column[int]:
    """Build ``id``, which counts up; in SQLite only an INTEGER does."""
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", kind, primary_key=True, autoincrement=True)


def foreign_id(name: str) -> sa.Column[int]:
    """Build a primary key that another table assigns."""
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def required(name: str, kind: Any) -> sa.Column[Any]:
    """Build a column that is NOT NULL."""
    return sa.Column(name, kind, nullable=False)


def one_of(*values: str) -> sa.types.TypeEngine[str]:
    """Return an ENUM on MySQL and MariaDB, else text."""
    return sa.String(16).with_variant(mysql.ENUM(*values), "mysql")


def created_at(name: str = "created_at", *, nullable: bool = True) -> sa.Column[Any]:
    """Build the time of the insert."""
    return sa.Column(name, sa.TIMESTAMP, nullable=nullable, server_default=_NOW)


def updated_at() -> sa.Column[Any]:
    """Build the time of the last change."""
    on_update = " ON UPDATE CURRENT_TIMESTAMP" if op.get_bind().dialect.name == "mysql" else ""
    now = sa.text(f"CURRENT_TIMESTAMP{on_update}")
    return sa.Column("updated_at", sa.TIMESTAMP, server_default=now)


def fact_columns() -> list[sa.Column[Any]]:
    """Build the columns that ``media_facts`` and ``media_fallbacks`` share."""
    return [
        required("byte_size", sa.BigInteger),
        required("source_type", sa.String(16)),
        required("width", sa.Integer),
        required("height", sa.Integer),
        required("has_alpha", sa.Boolean),
        required("pages", sa.Integer),
        required("flat_background", sa.Boolean),
        sa.Column("focus_x", sa.Double),
        sa.Column("focus_y", sa.Double),
    ]
