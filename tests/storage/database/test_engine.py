"""URLs and SQLite files that the engine accepts, and how it waits for locks."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.domain.media import MediaFacts
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import (
    bounded_connection,
    check_url,
    dispose,
    open_engine,
    open_reader,
    single_connection,
)
from proxy.storage.database.media_repository import open_media_repository
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
        async with open_media_repository(url, settings) as database:
            with pytest.raises(DatabaseUnavailable):
                await database.save_facts(1, facts)


async def test_a_locked_sqlite_file_is_still_read(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    file = tmp_path / "media.db"
    url = f"sqlite+aiosqlite:///{file}"
    await upgrade(url, settings)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with open_media_repository(url, settings) as database:
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
        open_media_repository(url, settings)
    assert "secret" not in caught.value.detail


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_settings(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"database\.url"):
        open_media_repository(f"sqlite+aiosqlite:///{tmp_path}/file/below/media.db", settings)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
def test_mariadb_and_mysql_are_one_dialect(scheme: str, settings: DatabaseSettings) -> None:
    engine = open_engine(f"{scheme}+aiomysql://user@host/name", settings)
    assert engine.url.drivername == "mysql+aiomysql"


def test_a_check_of_a_url_connects_to_nothing() -> None:
    check_url("mysql+aiomysql://user@host.invalid/name")
    with pytest.raises(ConfigurationError, match=r"main\.url"):
        check_url("redis://host", setting="main.url")


async def test_a_connection_returns_to_the_pool_after_an_error(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    engine = open_engine(f"sqlite+aiosqlite:///{tmp_path}/media.db", settings)
    for _ in range(3 * settings.pool_size):
        with pytest.raises(DatabaseUnavailable):
            async with bounded_connection(engine, settings) as connection:
                await connection.exec_driver_sql("SELECT nonsense")
    await dispose(engine)


async def test_a_block_that_takes_too_long_is_unavailable(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/media.db"
    with pytest.raises(DatabaseUnavailable) as caught:
        async with single_connection(url, settings):
            await asyncio.Event().wait()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert caught.value.retry_after_s == 7


async def test_an_error_of_the_caller_is_not_translated(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    with pytest.raises(LookupError):
        async with single_connection(f"sqlite+aiosqlite:///{tmp_path}/media.db", settings):
            raise LookupError


async def test_a_closed_reader_raises_an_os_error(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    reader = open_reader(f"sqlite+aiosqlite:///{tmp_path}/media.db", settings)
    assert (await reader.rows(text("SELECT :one"), {"one": 1}))[0][0] == 1
    await reader.aclose()
    with pytest.raises(OSError, match="ended"):
        await reader.rows(text("SELECT 1"), {})


async def test_the_folder_of_a_file_is_created(tmp_path: Path, settings: DatabaseSettings) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a/b/media.db"
    async with single_connection(url, settings) as connection:
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(text("PRAGMA foreign_keys")) == 1
