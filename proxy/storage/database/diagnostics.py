"""Diagnostics of a database: version, latency, clock and permissions. Nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import literal_column, select, text
from sqlalchemy.exc import DBAPIError

from proxy.domain.errors import DatabaseUnavailable
from proxy.settings import DatabaseSettings
from proxy.storage.database import tables
from proxy.storage.database.driver_errors import driver_text, is_locked_file
from proxy.storage.database.metadata_tables import media_metadata
from proxy.storage.database.transactions import SqlDatabase, single_connection

_SERVING: Mapping[str, str] = {
    "read media_files": "SELECT id FROM media_files WHERE 1 = 0",
    "read media_fallbacks": "SELECT media_id FROM media_fallbacks WHERE 1 = 0",
    "read media_facts": "SELECT media_id FROM media_facts WHERE 1 = 0",
    "write media_facts": "REPLACE INTO media_facts SELECT * FROM media_facts WHERE 1 = 0",
    "delete from media_facts": "DELETE FROM media_facts WHERE media_id = -1",
    **{
        f"{verb} {table}": statement.format(table=table)
        for table in ("media_choices", "media_alt_texts")
        for verb, statement in (
            ("read", "SELECT media_id FROM {table} WHERE 1 = 0"),
            ("write", "INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0"),
            ("change", "UPDATE {table} SET updated_at = 0 WHERE media_id = -1"),
            ("delete from", "DELETE FROM {table} WHERE media_id = -1"),
        )
    },
    "read media_faces": "SELECT media_id FROM media_faces WHERE 1 = 0",
    "write media_faces": "REPLACE INTO media_faces SELECT * FROM media_faces WHERE 1 = 0",
    "delete from media_faces": "DELETE FROM media_faces WHERE media_id = -1",
    "read purge_epochs": "SELECT user_id FROM purge_epochs WHERE 1 = 0",
    "write purge_epochs": "INSERT INTO purge_epochs SELECT * FROM purge_epochs WHERE 1 = 0",
    "change purge_epochs": "UPDATE purge_epochs SET epoch = epoch WHERE user_id = -2",
    "write purges": "INSERT INTO purges SELECT * FROM purges WHERE 1 = 0",
    "delete from purges": "DELETE FROM purges WHERE id = -1",
    "change media_metadata": "UPDATE media_metadata SET user_id = user_id WHERE media_id = -1",
    "delete from media_metadata": "DELETE FROM media_metadata WHERE media_id = -1",
    "delete from media_tags": "DELETE FROM media_tags WHERE media_id = -1",
}
"""Operations of serving; none of the statements matches a row."""
_INGEST: Mapping[str, str] = {
    **{
        f"write {table}": f"INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0"  # noqa: S608 - ours
        for table in media_metadata.metadata.tables
        if f"write {table}" not in _SERVING and table != "media_fallbacks"
    },
    "change media_files": "UPDATE media_files SET status = status WHERE id = -1",
    "change metadata_jobs": "UPDATE metadata_jobs SET status = status WHERE id = ''",
    "delete from metadata_jobs": "DELETE FROM metadata_jobs WHERE id = ''",
    "delete from metadata_cache": "DELETE FROM metadata_cache WHERE cache_key = ''",
    "change ingest_items": "UPDATE ingest_items SET state = state WHERE main_api_id = -1",
}
"""Further operations of processing uploads."""


async def describe_server(url: str, settings: DatabaseSettings) -> tuple[str, float]:
    """Return kind and version of the database, and the time of a query in seconds.

    Raises:
        DatabaseUnavailable: the database cannot be reached or does not answer in time.
    """
    async with single_connection(url, settings) as connection:
        began = time.monotonic()
        await connection.execute(select(literal_column("1")))
        latency_s = time.monotonic() - began
        kind = connection.dialect.name
        function = "sqlite_version()" if kind == "sqlite" else "VERSION()"
        version = await connection.scalar(text(f"SELECT {function}"))
        return f"{kind} {version}", latency_s


async def clock_offset_s(url: str, settings: DatabaseSettings) -> float:
    """Return how far the database's clock is ahead of this machine's; raises as above."""
    async with single_connection(url, settings) as connection:
        before = time.time()
        theirs = float((await connection.execute(select(tables.DatabaseClock()))).scalar_one())
        # The database reads its clock about half way between the request and its answer.
        return theirs - (before + time.time()) / 2


async def denied_operations(
    url: str, settings: DatabaseSettings, *, ingest: bool = False
) -> Sequence[str]:
    """Return the operations that the account may not perform, each with the database's message.

    Includes those of processing uploads with ``ingest``. No row is changed: permissions are
    checked before rows are searched. Raises as above.
    """
    operations = {**_SERVING, **(_INGEST if ingest else {})}
    denied: list[str] = []
    async with SqlDatabase(url, settings) as database:
        for name, query in operations.items():
            refusal = await _refusal(database, query)
            if refusal is not None:
                denied.append(f"{name}: {driver_text(refusal)}")
                # All other writes to an SQLite file would wait as long for the same lock.
                if is_locked_file(refusal):
                    break
    return denied


async def _refusal(database: SqlDatabase, query: str) -> DatabaseUnavailable | None:
    """Run a statement and roll it back; return the error if it was refused."""
    try:
        # No row matches; the rollback is a second safeguard.
        async with database.transaction(dry_run=True) as connection:
            await connection.execute(text(query))
    except DatabaseUnavailable as error:
        # Not refused: the database cannot be reached, or did not answer in time.
        if not isinstance(error.__cause__, DBAPIError):
            raise
        return error
    return None
