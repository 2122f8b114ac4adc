"""Creates the engines of SQLite files and of MariaDB and MySQL servers."""

from __future__ import annotations

import asyncio
import getpass
import math
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from proxy.domain.errors import ConfigurationError
from proxy.settings import DatabaseSettings
from proxy.storage.database.driver_errors import driver_errors, lost_connection
from proxy.storage.database.mysql_tls import connect_tls, split_tls

_ALLOWED = "must be sqlite+aiosqlite:///FILE or mysql+aiomysql://USER@HOST/NAME"
_SQLITE, _MYSQL = "sqlite+aiosqlite", "mysql+aiomysql"
# SQLite must give up on a lock before the deadline of the query: its thread cannot be interrupted.
_BUSY_PART = 0.8
# The share of the connect timeout in which a pooled connection must answer a ping.
_PING_PART = 1 / 3


def parse_url(url: str, *, setting: str = "database.url") -> URL:
    """Parse a URL; raise ConfigurationError, without the password in it, if it is not supported."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError([f"{setting}: {_ALLOWED}"]) from None
    # One dialect gives one set of types.
    if parsed.drivername == "mariadb+aiomysql":
        parsed = parsed.set(drivername=_MYSQL)
    # Each connection to :memory: would have a database of its own.
    in_file = parsed.drivername == _SQLITE and parsed.database not in (None, ":memory:")
    if not (in_file or (parsed.drivername == _MYSQL and parsed.database)):
        raise ConfigurationError([f"{setting}: {_ALLOWED}"])
    return parsed


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database, or None for a server; raises as `parse_url` does."""
    parsed = parse_url(url)
    return Path(str(parsed.database)) if parsed.drivername == _SQLITE else None


def open_engine(
    url: str,
    settings: DatabaseSettings,
    *,
    isolation: str | None = None,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
) -> AsyncEngine:
    """Create an engine that has not connected yet; the caller disposes of it.

    The folder of an SQLite file is created if it is missing. ``isolation`` replaces the default
    isolation level of a MySQL server. ``synchronous`` is the pragma of SQLite: with FULL a commit
    survives a power cut, with NORMAL the last commits may be lost.

    Raises:
        ConfigurationError: the URL is not supported, or the folder cannot be created.
    """
    if (file := sqlite_file(url)) is None:
        return _mysql_engine(url, settings, isolation)
    _make_folder(file.parent)
    engine = create_async_engine(url, **_sqlite_options(settings))
    event.listen(engine.sync_engine, "connect", partial(_configure_sqlite, synchronous=synchronous))
    return engine


def open_blocking_engine(file: Path, settings: DatabaseSettings) -> Engine:
    """Create an engine for reading an SQLite file in any thread; raises as `open_engine` does."""
    _make_folder(file.parent)
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(file)),
        poolclass=QueuePool,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        **_sqlite_options(settings, check_same_thread=False),
    )
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def open_plain_sqlite(file: Path, settings: DatabaseSettings) -> sqlite3.Connection:
    """Connect to an SQLite file for use in any one thread at a time; raises sqlite3.Error."""
    connection = sqlite3.connect(
        file,
        timeout=settings.query_timeout_s * _BUSY_PART,
        isolation_level=None,
        check_same_thread=False,
    )
    _configure_sqlite(connection, None)
    return connection


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError([f"database.url: {folder}: {error.strerror}"]) from error


def _pool_options(settings: DatabaseSettings) -> dict[str, Any]:
    return {
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.connect_timeout_s,
        "pool_recycle": settings.pool_recycle_s,
    }


def _sqlite_options(settings: DatabaseSettings, **connect_args: Any) -> dict[str, Any]:
    connect_args["timeout"] = settings.query_timeout_s * _BUSY_PART
    return {**_pool_options(settings), "connect_args": connect_args}


def _configure_sqlite(connection: Any, _record: object, *, synchronous: str = "NORMAL") -> None:
    # By default text that is not UTF-8 makes the whole query fail. As lone surrogates it affects
    # its own row only: `proxy.domain.media.stored_text` rejects it.
    driver = getattr(connection, "driver_connection", connection)
    driver.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    # As in MySQL and MariaDB.
    connection.create_function("bit_count", 1, _bit_count, deterministic=True)
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA synchronous = {synchronous}")
    cursor.execute("PRAGMA foreign_keys = ON")
    # This fails if another process changes the mode at the same moment (SQLite does not wait for
    # that), or if the file is read-only. The connection is usable in both cases.
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _bit_count(word: int) -> int:
    return (word & 0xFFFF_FFFF_FFFF_FFFF).bit_count()


def _name_the_user() -> None:
    """Prepare the import of aiomysql, which looks up the name of the process's user.

    A container may run as a user without a name. Since Python 3.13 the look-up then raises an error
    that aiomysql does not expect.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USERNAME"] = "unknown"


def _mysql_engine(url: str, settings: DatabaseSettings, isolation: str | None) -> AsyncEngine:
    _name_the_user()
    # InnoDB does not notice that a client disconnects while its write waits for a row lock. Each
    # such session would stay for 50 s by default, so the wait is limited to the query timeout.
    wait_s = math.ceil(settings.query_timeout_s)
    plain, tls = split_tls(parse_url(url), setting="database.url")
    encrypted = {} if tls is None else {"ssl": tls, "async_creator_fn": connect_tls}
    engine = create_async_engine(
        plain,
        **_pool_options(settings),
        isolation_level=isolation,
        # With AUTOCOMMIT a query is one round trip.
        skip_autocommit_rollback=True,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": settings.connect_timeout_s,
            "init_command": f"SET time_zone = '+00:00', innodb_lock_wait_timeout = {wait_s}",
            **encrypted,
        },
    )
    event.listen(engine.sync_engine, "checkout", _ping_listener(settings))
    event.listen(engine.sync_engine, "handle_error", lost_connection)
    return engine


def _ping_listener(settings: DatabaseSettings) -> Callable[[Any, Any, object], None]:
    """Return a checkout listener that pings a pooled connection before each use but the first.

    SQLAlchemy's `pool_pre_ping` has no timeout. If a firewall has dropped the connections, each
    of the pool's would block one caller until its deadline. This ping leaves time to reconnect,
    and its failure invalidates all connections of the pool that are as old.
    """
    timeout_s = settings.connect_timeout_s * _PING_PART

    async def ping(driver: Any) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await driver.ping(reconnect=False)
        except BaseException:
            # Close it here: SQLAlchemy would send COM_QUIT first, and after a reset uvloop raises
            # a RuntimeError on that write.
            driver.close()
            raise

    def check(connection: Any, record: Any, _fairy: object) -> None:
        # A connection that has just been opened needs no ping.
        if not record.info.setdefault("used", False):
            record.info["used"] = True
            return
        try:
            connection.run_async(ping)
        except driver_errors() as error:
            raise InvalidatePoolError from error

    return check
