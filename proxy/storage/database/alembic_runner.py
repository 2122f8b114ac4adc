"""Migrating: alembic, run on a connection. It takes a tenth of a second to import, so only here."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_HERE = Path(__file__).parent


def run(connection: Connection, *, scripts: str, version_table: str, own: bool) -> None:
    """Bring a schema to its newest version, in the connection's transaction."""
    config = _config(scripts)
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table
    config.attributes["own"] = own
    command.upgrade(config, "head")


def revisions(scripts: str = "migrations") -> list[str]:
    """All versions of a schema, the oldest first."""
    directory = ScriptDirectory.from_config(_config(scripts))
    return [script.revision for script in directory.walk_revisions()][::-1]


def _config(scripts: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE / scripts).replace("%", "%%"))
    return config
