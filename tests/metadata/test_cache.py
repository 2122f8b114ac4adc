"""The cache of extractions: by content and versions, for a time, within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from proxy.metadata.cache import COUNTS, SqlExtractionCache
from proxy.metadata.extraction import Extraction
from proxy.metadata.extractor import CacheKey
from proxy.settings import DatabaseSettings, MetadataSettings
from proxy.storage.database.metadata_tables import metadata_cache
from proxy.storage.database.schema import upgrade
from proxy.storage.database.transactions import SqlDatabase
from tests.support.mariadb import MariaDB

DATABASE = DatabaseSettings(query_timeout_s=60, connect_timeout_s=60)
MIB = 1024 * 1024


@pytest.fixture(params=["sqlite", "mariadb"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'media.db'}"
    if request.param == "mariadb":
        server: MariaDB = request.getfixturevalue("mariadb")
        url = server.url(await asyncio.to_thread(server.create_database))
    await upgrade(url, DATABASE)
    async with SqlDatabase(url, DATABASE, isolation="READ COMMITTED") as database:
        yield database


def cache_of(database: SqlDatabase, **settings: Any) -> SqlExtractionCache:
    return SqlExtractionCache(database, MetadataSettings.model_validate(settings))


def key(number: int = 1, variant: str = "a") -> CacheKey:
    return CacheKey(f"{number:064x}", variant * 64)


def extraction(text: str = "🚢", **parts: Any) -> Extraction:
    tags = {"PNG": {"Comment": "one"}, "IFD0": {"Make": "two\nlines"}}
    metadata = {"prompt": text, "groups": tags, "text": [{"keyword": "Comment", "text": "one"}]}
    return Extraction(metadata, {"confidence_score": 0.9}, {"queued_ms": 1.5}, **parts)


async def entries(database: SqlDatabase) -> int:
    return int((await database.read(sa.select(sa.func.count()).select_from(metadata_cache)))[0][0])


async def older(database: SqlDatabase, seconds: float) -> None:
    """Let time pass."""
    until = metadata_cache.c.expires_at - seconds
    passed = sa.update(metadata_cache).values(expires_at=until)
    await database.run(lambda connection: connection.execute(passed))


async def test_an_extraction_is_found_again_as_it_was_and_hits_and_misses_are_counted(
    database: SqlDatabase,
) -> None:
    cache, whole = cache_of(database), extraction(advanced={"hashes": {"md5": "x"}})
    assert await cache.get(key()) is None
    await cache.put(key(), whole)
    assert await cache.get(key()) == whole
    # Stored again, as another server may do at the same time.
    await cache.put(key(), extraction("new"))
    assert await cache.get(key()) == extraction("new")
    counts = {"hits": 2, "misses": 1, "stored": 2, "failures": 0}
    assert cache.statistics() == counts
    assert set(counts) == set(COUNTS)
    assert await cache.count() == 1


async def test_the_key_is_the_content_and_the_entry_is_bound_to_all_else(
    database: SqlDatabase,
) -> None:
    cache = cache_of(database)
    await cache.put(key(), extraction())
    assert await cache.get(key(2)) is None
    # Another version of an engine, another schema, or other options.
    assert await cache.get(key(1, "b")) is None
    await cache.put(key(1, "b"), extraction("b"))
    assert await cache.get(key()) == extraction()
    rows = await database.read(sa.select(metadata_cache.c.cache_key).distinct())
    assert [row.cache_key for row in rows] == [f"metadata:{1:064x}"]


async def test_an_extraction_is_kept_for_its_time_to_live(database: SqlDatabase) -> None:
    cache = cache_of(database)
    await cache.put(key(), extraction())
    await older(database, 3000)
    assert await cache.get(key()) is not None
    await older(database, 700)
    assert await cache.get(key()) is None
    assert await cache.count() == 0
    # The row goes with the next one that is stored, or hourly.
    await cache.put(key(2), extraction())
    assert await entries(database) == 1
    await older(database, 4000)
    await cache.prune()
    assert await entries(database) == 0


async def test_above_the_limit_of_rows_the_oldest_are_deleted(database: SqlDatabase) -> None:
    cache = cache_of(database, cache_rows=3)
    for number in range(5):
        await cache.put(key(number), extraction())
        await older(database, 1)
    found = [await cache.get(key(number)) is not None for number in range(5)]
    assert found == [False, False, True, True, True]


async def test_entries_of_before_the_clock_was_set_back_do_not_stay_in_place_of_new_ones(
    database: SqlDatabase,
) -> None:
    cache = cache_of(database, cache_rows=2)
    for number in (1, 2):
        await cache.put(key(number), extraction())
    await older(database, -86_400)
    await cache.put(key(3), extraction())
    assert await cache.get(key(3)) is not None
    await older(database, -86_400)
    await cache.prune()
    assert await entries(database) == 0
    # The clock of a database may be set by a few seconds.
    await cache.put(key(4), extraction())
    await older(database, -30)
    await cache.prune()
    assert await entries(database) == 1


async def test_above_the_limit_of_bytes_the_oldest_are_deleted(database: SqlDatabase) -> None:
    cache = cache_of(database, cache_bytes=MIB)
    # Characters of four bytes: 0.4 MiB each.
    for number in range(3):
        await cache.put(key(number), extraction("🚢" * (MIB // 10)))
        await older(database, 1)
    found = [await cache.get(key(number)) is not None for number in range(3)]
    assert found == [False, True, True]
    # What exceeds the limit alone displaces nothing.
    await cache.put(key(9), extraction("x" * 2 * MIB))
    assert await entries(database) == 2


async def test_a_database_that_fails_is_a_miss_and_nothing_is_raised(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'media.db'}"
    async with SqlDatabase(url, DATABASE) as database:
        # Without tables.
        cache = cache_of(database)
        with capture_logs() as logs:
            assert await cache.get(key()) is None
            await cache.put(key(), extraction())
            await cache.prune()
    assert cache.statistics() == {"hits": 0, "misses": 1, "stored": 0, "failures": 2}
    assert {one["event"] for one in logs} == {"metadata_cache_failed"}
