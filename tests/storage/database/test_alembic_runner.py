"""Migrations: their order, and creating what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from proxy.settings import DatabaseSettings
from proxy.storage.database import alembic_runner
from proxy.storage.database.schema import main_schema
from proxy.storage.database.transactions import single_connection


@pytest.mark.parametrize("scripts", ["media", "main"])
def test_a_migration_file_is_named_by_its_revision(scripts: str) -> None:
    directory = ScriptDirectory.from_config(alembic_runner.script_config(scripts))
    for script in directory.walk_revisions():
        assert Path(script.path).name.startswith(f"{script.revision}_")


async def run_migrations(url: str, settings: DatabaseSettings, *, own: bool = True) -> list[str]:
    """Run the migrations of the main schema and return the names of all tables."""
    schema = main_schema(own=own)

    def work(connection: Connection) -> list[str]:
        table = schema.version_table
        alembic_runner.run(connection, scripts=schema.scripts, version_table=table, own=own)
        return sorted(inspect(connection).get_table_names())

    async with single_connection(url, settings) as connection:
        names = await connection.run_sync(work)
        await connection.commit()
        return names


async def test_our_own_main_database_gets_profiles(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    names = await run_migrations(f"sqlite+aiosqlite:///{tmp_path}/main.db", settings)
    assert {"pending_images", "user_profiles", "site_media"} < set(names)


async def test_the_main_database_of_another_program_gets_the_queue_alone(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/main.db"
    names = await run_migrations(url, settings, own=False)
    assert names == ["pending_images", "smartserve_main_version"]


async def test_a_change_moves_updated_at_on_sqlite(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/main.db"
    await run_migrations(url, settings)
    async with single_connection(url, settings) as connection:
        await connection.exec_driver_sql(
            "INSERT INTO pending_images (user_id, image_path, updated_at) VALUES (1, 'a', 0)"
        )
        await connection.exec_driver_sql("UPDATE pending_images SET image_path = 'b'")
        found = await connection.exec_driver_sql("SELECT updated_at FROM pending_images")
        assert found.scalar() != 0


async def test_a_second_run_changes_nothing(tmp_path: Path, settings: DatabaseSettings) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/main.db"
    assert await run_migrations(url, settings) == await run_migrations(url, settings)
