"""URLs and SQLite files that the engine accepts, and how it waits for locks."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.domain.media import MediaFacts
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import open_engine, parse_url, sqlite_file
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.schema import upgrade


@pytest.fixture
def settings() -> DatabaseSettings:
    return DatabaseSettings(
        connect_timeout_s=0.4,
        query_timeout_s=0.6,
        retry_after_s=7,
        pool_size=2,
    )


async def test_a_locked_sqlite_file_refuses_writes_in_time(
    tmp_path: Path, settings: DatabaseSettings, facts: MediaFacts
) -> None:
    file = tmp_path / "media.db"
    url = f"sqlite+aiosqlite:///{file}"
    await upgrade(url, settings)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with SqlMediaRepository(url, settings) as database:
            with pytest.raises(DatabaseUnavailable):
                await database.save_facts(1, facts, since=0)


async def test_a_locked_sqlite_file_is_still_read(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    file = tmp_path / "media.db"
    url = f"sqlite+aiosqlite:///{file}"
    await upgrade(url, settings)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with SqlMediaRepository(url, settings) as database:
            assert await database.find(1) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "postgresql+asyncpg://u:secret@h/d",
        "mysql+pymysql://u:secret@h/d",
        "mysql+aiomysql://u:secret@h",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
    ],
)
def test_a_url_of_another_kind_is_refused_without_being_told(
    url: str, settings: DatabaseSettings
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SqlMediaRepository(url, settings)
    assert "secret" not in caught.value.detail


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_settings(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"database\.url"):
        SqlMediaRepository(f"sqlite+aiosqlite:///{tmp_path}/file/below/media.db", settings)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
def test_mariadb_and_mysql_are_one_dialect(scheme: str, settings: DatabaseSettings) -> None:
    engine = open_engine(f"{scheme}+aiomysql://user@host/name", settings)
    assert engine.url.drivername == "mysql+aiomysql"


def test_a_check_of_a_url_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"main\.url"):
        parse_url("redis://host", setting="main.url")


def test_only_sqlite_has_a_file() -> None:
    assert sqlite_file("sqlite+aiosqlite:////var/lib/a.db") == Path("/var/lib/a.db")
    assert sqlite_file("mysql+aiomysql://root@127.0.0.1/a") is None
    with pytest.raises(ConfigurationError):
        sqlite_file("postgresql://root@127.0.0.1/a")


async def test_the_folder_of_a_file_is_created(tmp_path: Path, settings: DatabaseSettings) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a/b/media.db"
    engine = open_engine(url, settings)
    async with engine.connect() as connection:
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(text("PRAGMA foreign_keys")) == 1
    await engine.dispose()


# As Python 3.13 does it; earlier versions raise the KeyError of the look-up.
_NAMELESS = """
import getpass, os
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import open_engine

def getuser():
    if name := os.environ.get("USERNAME"):
        return name
    raise OSError("No username set in the environment")

getpass.getuser = getuser
print(open_engine("mysql+aiomysql://app@db/main", DatabaseSettings()).url.username)
"""


def test_a_process_of_a_user_without_a_name_connects_to_a_server() -> None:
    unnamed = {name: value for name, value in os.environ.items() if name != "USERNAME"}
    done = subprocess.run(
        [sys.executable, "-c", _NAMELESS], env=unnamed, capture_output=True, text=True, check=True
    )
    assert done.stdout == "app\n"


def test_the_engines_do_not_import_the_orm_but_leave_it_importable() -> None:
    script = (
        "import sys, proxy.storage.database.engine\n"
        "assert 'sqlalchemy.orm' not in sys.modules\n"
        "from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine\n"
        "assert AsyncSession.__module__ == 'sqlalchemy.ext.asyncio.session'\n"
        "assert proxy.storage.database.engine.create_async_engine is create_async_engine\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
