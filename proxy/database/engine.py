"""The engine behind every query: which databases are spoken to, how, and how their errors leave."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiomysql
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from proxy.errors import ConfigurationError, DatabaseUnavailable
from proxy.settings import DatabaseSettings

_ALLOWED = "database.url: must be sqlite+aiosqlite:///FILE or mysql+aiomysql://USER@HOST/NAME"
_FAULTS = (SQLAlchemyError, OSError, EOFError, aiomysql.MySQLError)
_BUSY_PART = 0.8
"""SQLite gives up on a lock before the query's deadline: its thread cannot be interrupted."""


def open_engine(url: str, settings: DatabaseSettings, *, reading: bool = False) -> AsyncEngine:
    """An engine that has not connected yet; the caller disposes of it.

    One for ``reading`` begins and ends no transactions: a query is one round trip (for SQLite one
    hop into its thread) in place of three. The folder of an SQLite file is made where it is
    missing. ``mariadb`` URLs are taken as ``mysql``: one dialect, one set of types.

    Raises:
        ConfigurationError: for a URL of another kind, which is not repeated as it may hold a
            password; or for a folder that cannot be made.
    """
    parsed = _parsed(url)
    if parsed.drivername == "sqlite+aiosqlite":
        return _sqlite_engine(parsed, settings, reading=reading)
    return create_async_engine(
        parsed,
        **_pool_options(settings),
        **_reading_options(reading=reading),
        pool_pre_ping=True,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": settings.connect_timeout_s,
            "init_command": "SET time_zone = '+00:00'",
        },
    )


def check_url(url: str) -> None:
    """Raise ConfigurationError for a URL of a kind that is not spoken to; connects nothing."""
    _parsed(url)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError([_ALLOWED]) from None
    if parsed.drivername == "mariadb+aiomysql":
        parsed = parsed.set(drivername="mysql+aiomysql")
    in_file = parsed.drivername == "sqlite+aiosqlite" and parsed.database not in (None, ":memory:")
    if not (in_file or (parsed.drivername == "mysql+aiomysql" and parsed.database)):
        raise ConfigurationError([_ALLOWED])
    return parsed


def _pool_options(settings: DatabaseSettings) -> dict[str, Any]:
    return {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.connect_timeout_s,
        "pool_recycle": settings.pool_recycle_s,
    }


def _reading_options(*, reading: bool) -> dict[str, Any]:
    if not reading:
        return {}
    return {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError([f"database.url: {folder}: {error.strerror}"]) from error


def _sqlite_engine(url: URL, settings: DatabaseSettings, *, reading: bool) -> AsyncEngine:
    """No ping before each use: a file does not hang up."""
    _make_folder(Path(str(url.database)).parent)
    busy_s = settings.query_timeout_s * _BUSY_PART
    engine = create_async_engine(
        url,
        **_pool_options(settings),
        **_reading_options(reading=reading),
        connect_args={"timeout": busy_s},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # Refused where another process is switching at this moment, for which SQLite does not
        # wait, or where the file can only be read; either way the connection is good.
        with suppress(sqlite3.OperationalError):
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()

    return engine


@asynccontextmanager
async def connected(
    engine: AsyncEngine, settings: DatabaseSettings
) -> AsyncIterator[AsyncConnection]:
    """A connection, had within ``connect_timeout_s``; the driver's own limit spares the handshake.

    It goes back to the pool at the end.
    """
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(settings.connect_timeout_s):
            connection = await stack.enter_async_context(engine.connect())
        yield connection


async def dispose(engine: AsyncEngine) -> None:
    """Close the pooled connections; once cancelled, it still runs to its end."""
    closing = asyncio.create_task(engine.dispose())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await closing
        raise


@contextmanager
def translated(settings: DatabaseSettings) -> Iterator[None]:
    """Turn whatever a database, its driver or a deadline raises into `DatabaseUnavailable`.

    Cancellation passes.
    """
    try:
        yield
    except _FAULTS as error:
        raise DatabaseUnavailable(
            "The media database cannot be asked now.", retry_after_s=settings.retry_after_s
        ) from error
