"""Explains errors of the drivers to operators: what happened, why, and what to do."""

from __future__ import annotations

import socket
import sqlite3
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import URL, ExceptionContext
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from proxy.domain.errors import DatabaseUnavailable, RowRejected


def driver_errors() -> tuple[type[Exception], ...]:
    """Return what a driver call or SQLAlchemy's pool may raise; see `is_bug`."""
    return (SQLAlchemyError, *_connection_errors(), RuntimeError)


def _connection_errors() -> tuple[type[Exception], ...]:
    """Return the errors that the drivers raise for a lost connection."""
    return (OSError, EOFError, *_mysql_errors())


def _mysql_errors() -> tuple[type[Exception], ...]:
    # Only the driver imports it: with SQLite, pymysql and cryptography would take 8 MB for nothing.
    module = sys.modules.get("pymysql.err")
    return () if module is None else (module.MySQLError,)


_DENIED = (
    "User or password is wrong, or the account may not connect from this machine: check {setting}"
    " (SMARTSERVE_{variable})."
)
_DISK_FULL = "The disk of the database is full: free space or enlarge it."
_READ_ONLY = "The database accepts no changes: check read_only, or name the primary in {setting}."
_GRANT = "The account lacks a permission: `smartserve doctor` names the ones it needs (GRANT)."
_OLD_SCHEMA = (
    "A table or column is missing: run `smartserve db upgrade` with an account that may change the"
    " schema, and check that {setting} names the right database."
)
_CONNECTIONS = (
    "Too many connections: SHOW PROCESSLIST lists the clients. Raise max_connections, or lower"
    " database.pool_size of each server."
)
_TLS = "The connection requires TLS, or its certificate was rejected: check the TLS options."
_UP = "Is it running (systemctl status mariadb), and are host and port in {setting} correct?"
_UNKNOWN_HOST = "The host in {setting} cannot be resolved: check its spelling and the DNS."
_LOST = "The server closed the connection: see its log, max_allowed_packet and timeouts."
_COLLISION = "Another transaction held the lock: it is retried; a long one blocks all others."
_FILE = "An SQLite file and its folder must belong to the server's user (chown)."
_LOCKED = "The file is locked: another program is writing it."
_DAMAGED = "The file is damaged or is not a database: restore it from a backup."
_REJECTED = "A retry does not help: the column does not accept the value."
_BUG = "This is a bug of smartserve, or the table differs from its schema: report it with the log."

_ADVICE: Mapping[int, str] = MappingProxyType(
    {
        **dict.fromkeys((1045, 1130, 1251, 1698, 2059), _DENIED),
        1044: "The account may not use this database: GRANT access, or name another in {setting}.",
        1049: "The database does not exist: CREATE DATABASE, or name another in {setting}.",
        **dict.fromkeys((1142, 1143, 1227, 1370), _GRANT),
        **dict.fromkeys((1051, 1054, 1146), _OLD_SCHEMA),
        **dict.fromkeys((1021, 1114), _DISK_FULL),
        **dict.fromkeys((1036, 1290, 1792, 1836), _READ_ONLY),
        **dict.fromkeys((1040, 1203, 1226), _CONNECTIONS),
        1129: "Too many failed connections from this machine: run `mysqladmin flush-hosts`.",
        **dict.fromkeys((2026, 3159), _TLS),
        **dict.fromkeys((2002, 2003), _UP),
        2005: _UNKNOWN_HOST,
        **dict.fromkeys((1053, 1077, 1927, 2006, 2013, 2055), _LOST),
        **dict.fromkeys((1205, 1213), _COLLISION),
        **dict.fromkeys((1064, 1136, 1149), _BUG),
    }
)
"""By the error number of MySQL and MariaDB."""
_SQLITE_ADVICE: Mapping[int, str] = MappingProxyType(
    {
        sqlite3.SQLITE_FULL: _DISK_FULL,
        **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), _LOCKED),
        **dict.fromkeys((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB), _DAMAGED),
        **dict.fromkeys(
            (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM), _FILE
        ),
        sqlite3.SQLITE_IOERR: "The disk reported an error: see dmesg and the free space.",
    }
)
"""By the primary code of SQLite."""
_BY_TYPE: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, _UNKNOWN_HOST),
    (ssl.SSLError, _TLS),
    (PoolTimeout, "Raise database.pool_size, or find out what makes the queries slow."),
    (TimeoutError, f"{_UP} If it is busy, see its slow queries and database.query_timeout_s."),
)
# Rejected values for which PyMySQL raises an OperationalError: no valid date, number out of range,
# no valid JSON, JSON that is nested too deeply, a CHECK of MySQL, and one of MariaDB, whose JSON
# columns have a CHECK.
_REJECTIONS = frozenset({1292, 1690, 3140, 3157, 3819, 4025})
_MISSING = ("no such table", "no such column")
# The low byte of an SQLite error code is its primary code.
_PRIMARY = 0xFF
# What MySQL reports about the operating system, as in "Error writing file (errno: 28 ...)".
_NO_SPACE = ("errno: 28", "No space left", "Disk full")


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where a database is, for messages; it has no user and no password."""

    location: str
    """``host:port/name``, or the path of an SQLite file."""
    setting: str
    """The setting that names the database."""

    @classmethod
    def of(cls, url: URL, setting: str) -> DatabaseAddress:
        """Return the address in a parsed URL."""
        if url.host is None:
            return cls(str(url.database), setting)
        return cls(f"{url.host}:{url.port or 3306}/{url.database}", setting)


def unavailable(
    error: BaseException, address: DatabaseAddress, *, retry_after_s: int, connecting: bool
) -> DatabaseUnavailable:
    """Return the error to raise for one of a driver; ``connecting`` if there was no connection."""
    text = driver_text(error)
    if is_rejection(error):
        return RowRejected(
            "The database rejected a value.",
            reason=f"The database at {address.location} rejected a row: {text}.",
            advice=_REJECTED,
        )
    advice = _advice(error)
    variable = address.setting.replace(".", "__").upper()
    return DatabaseUnavailable(
        "The database did not answer the query. Retry later.",
        retry_after_s=retry_after_s,
        reason=f"Cannot connect to the database at {address.location}: {text}."
        if connecting
        else f"The database at {address.location} did not complete a statement: {text}.",
        advice=advice.format(setting=address.setting, variable=variable),
    )


def driver_error(error: BaseException) -> BaseException:
    """Return what the driver raised, without the SQL statement that SQLAlchemy adds."""
    cause = error.__cause__ if isinstance(error, DatabaseUnavailable) else error
    cause = cause or error
    return cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause


def is_rejection(error: BaseException) -> bool:
    """Return whether the database answered that it does not accept a value of a row."""
    if isinstance(error, (DataError, IntegrityError)):
        return True
    cause = driver_error(error)
    return isinstance(cause, _mysql_errors()) and next(iter(cause.args), 0) in _REJECTIONS


def is_locked_file(error: BaseException) -> bool:
    """Return whether another program held the lock of an SQLite file for too long."""
    code = getattr(driver_error(error), "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & _PRIMARY in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def driver_text(error: BaseException) -> str:
    """Return the driver's message in one line, without the SQL; otherwise the cause as text."""
    cause = driver_error(error)
    if isinstance(cause, PoolTimeout):
        return "all connections of the pool are in use"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    text = " ".join(str(cause.args[-1]).split()) if cause.args else type(cause).__name__
    # aiomysql reports each error of the network as 2003 and keeps the system's as the cause.
    system = cause.__cause__
    if isinstance(system, OSError) and system.strerror and system.strerror not in text:
        text = f"{text} ({system.strerror})"
    return text.rstrip(".")


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary code of an error of SQLite."""
    # An error of the module itself, such as a wrong type of a parameter, has no code.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & _PRIMARY


def _advice(error: BaseException) -> str:
    """Return what to do about an error, with the placeholders ``setting`` and ``variable``."""
    cause = driver_error(error)
    # aiomysql raises its own error from the one of the system.
    system = cause.__cause__ if isinstance(cause.__cause__, OSError) else cause
    for kind, advice in _BY_TYPE:
        if isinstance(system, kind):
            return advice
    if isinstance(cause, sqlite3.Error):
        missing = any(text in str(cause) for text in _MISSING)
        return _OLD_SCHEMA if missing else _SQLITE_ADVICE.get(primary_code(cause), _BUG)
    if isinstance(cause, _mysql_errors()):
        full = any(text in str(cause) for text in _NO_SPACE)
        code = next(iter(cause.args), 0)
        return _DISK_FULL if full else _ADVICE.get(code, "See the log of the database.")
    return _LOST if isinstance(cause, (OSError, EOFError, RuntimeError)) else _BUG


def lost_connection(context: ExceptionContext) -> BaseException | None:
    """Return an error of the network as a DBAPIError; a listener of SQLAlchemy's `handle_error`.

    The listener is called for each error of a driver call, and for no error outside of one.
    """
    error = context.original_exception
    # Without an execution context, a statement has not been compiled yet: the error is a bug.
    compiling = context.statement is not None and context.execution_context is None
    if compiling or not isinstance(error, (*_connection_errors(), RuntimeError)) or is_bug(error):
        return None
    # Errors of the driver's own classes are wrapped already.
    if context.sqlalchemy_exception is not None:
        return None
    # The state of the connection is unknown, so it must not return to the pool.
    context.is_disconnect = True
    return OperationalError(None, None, error, connection_invalidated=True)


def is_bug(error: BaseException) -> bool:
    """Return whether an error is a subclass of RuntimeError, as NotImplementedError is.

    uvloop raises a RuntimeError itself on a write to a connection that was reset.
    """
    return isinstance(error, RuntimeError) and type(error) is not RuntimeError
