"""What a database says of itself, and what its account may do; nothing is changed by asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import literal_column, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from proxy.domain.errors import DatabaseUnavailable
from proxy.settings import DatabaseSettings
from proxy.storage.database.engine import check_url, connected, dispose, open_engine, translated
from proxy.storage.database.leased_writer import DatabaseClock
from proxy.storage.database.transactions import transaction

_PINGS = 5

_SERVING: Mapping[str, str] = MappingProxyType(
    {
        "read media_files": "SELECT id FROM media_files WHERE 1 = 0",
        "read media_fallbacks": "SELECT media_id FROM media_fallbacks WHERE 1 = 0",
        "read media_facts": "SELECT media_id FROM media_facts WHERE 1 = 0",
        "write media_facts": "REPLACE INTO media_facts SELECT * FROM media_facts WHERE 1 = 0",
        "delete from media_facts": "DELETE FROM media_facts WHERE media_id = -1",
    }
)
"""What serving does. A database looks at the rights first, and finds no row to do it to."""
_WORKING: Mapping[str, str] = MappingProxyType(
    {
        "write media_files": "INSERT INTO media_files SELECT * FROM media_files WHERE 1 = 0",
        "change media_files": "UPDATE media_files SET status = status WHERE id = -1",
        **{
            f"write {table}": f"INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0"  # noqa: S608 - ours
            for table in (
                *("ingest_items", "processing_checklist"),
                *("media_ai_analysis", "media_analysis_details"),
            )
        },
        "change ingest_items": "UPDATE ingest_items SET state = state WHERE main_api_id = -1",
    }
)
"""What a worker of uploads does besides."""


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """What a database says of itself."""

    kind: str
    """``sqlite`` or ``mysql``, which MariaDB is too."""
    version: str
    latency_s: float
    """Of a query, in the middle of a few."""
    ahead_s: float
    """By how much its clock is ahead of ours."""
    max_connections: int | None
    """None where there is no such limit."""
    connections: int
    """That are open now, by whomever."""


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for a server.

    Raises:
        ConfigurationError: it is a URL of neither.
    """
    check_url(url)
    parsed = make_url(url)
    return Path(str(parsed.database)) if parsed.drivername == "sqlite+aiosqlite" else None


async def vitals(url: str, settings: DatabaseSettings) -> DatabaseHealth:
    """What the database says of itself; raises DatabaseUnavailable."""
    async with _asked(url, settings) as connection:
        times = []
        for _ in range(_PINGS):
            began = time.monotonic()
            await connection.execute(select(literal_column("1")))
            times.append(time.monotonic() - began)
        ahead_s = await _ahead_s(connection)
        kind = connection.dialect.name
        version = "sqlite_version()" if kind == "sqlite" else "VERSION()"
        told = await connection.scalar(text(f"SELECT {version}"))
        limit, count = (None, 0) if kind == "sqlite" else await _connections(connection)
        return DatabaseHealth(kind, str(told), sorted(times)[_PINGS // 2], ahead_s, limit, count)


async def denied(url: str, settings: DatabaseSettings, *, ingest: bool = False) -> Sequence[str]:
    """What the account cannot do, of what serving does, and with ``ingest`` a worker of uploads.

    Each with what the database says. Raises DatabaseUnavailable.
    """
    wanted = {**_SERVING, **(_WORKING if ingest else {})}
    engine = open_engine(url, settings)
    try:
        refusals = {what: await _refusal(engine, settings, wanted[what]) for what in wanted}
    finally:
        await dispose(engine)
    return [f"{what}: {told}" for what, told in refusals.items() if told]


async def _refusal(engine: AsyncEngine, settings: DatabaseSettings, query: str) -> str:
    """Why a query is refused, which is taken back at once; empty where it is not."""
    try:
        async with transaction(engine, settings, dry=True) as connection:
            await connection.execute(text(query))
    except DatabaseUnavailable as error:
        if not isinstance(error.__cause__, DBAPIError):
            raise
        return driver_text(error)
    return ""


def driver_text(error: BaseException) -> str:
    """What the driver said, in one line and without the query; else the cause as it is."""
    cause = error.__cause__ or error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    said = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    arguments = [str(one) for one in getattr(said, "args", ())]
    return " ".join(arguments[-1].split()) if arguments else type(said).__name__


def driver_code(error: BaseException) -> int:
    """The number of the error that MySQL and MariaDB gave; 0 where there is none."""
    cause = error.__cause__
    said = cause.orig if isinstance(cause, DBAPIError) else cause
    arguments = getattr(said, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


@asynccontextmanager
async def _asked(url: str, settings: DatabaseSettings) -> AsyncIterator[AsyncConnection]:
    engine = open_engine(url, settings)
    try:
        with translated(settings):
            async with (
                asyncio.timeout(settings.query_timeout_s),
                connected(engine, settings) as connection,
            ):
                yield connection
    finally:
        await dispose(engine)


async def _ahead_s(connection: AsyncConnection) -> float:
    """The database's clock against ours in the middle of the question."""
    before = time.time()
    theirs = float((await connection.execute(select(DatabaseClock()))).scalar_one())
    return theirs - (before + time.time()) / 2


async def _connections(connection: AsyncConnection) -> tuple[int, int]:
    """How many there may be, and how many there are."""
    limit = await connection.scalar(text("SELECT @@max_connections"))
    query = text("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
    return int(limit or 0), int((await connection.execute(query)).one()[1])
