"""The table of purges, and which rows have changed, on each database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest
from sqlalchemy import delete, func, select, update

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import MediaFacts
from proxy.domain.render_plan import EVERYONE
from proxy.domain.variant import PurgeEntry
from proxy.settings import DatabaseSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.purge_table import PurgeTable, announcement
from proxy.storage.database.tables import DatabaseClock, media_facts, media_files, purges

ENTRIES = [PurgeEntry(7), PurgeEntry(7, frozenset({"0a1b2c3d", "ffffffff"})), PurgeEntry(8)]


def server(writer: LeasedWriter) -> PurgeTable:
    return PurgeTable(reader=writer, writer=writer, retention_days=1)


async def test_other_servers_read_a_purge_and_the_one_that_purged_does_not(
    writer: LeasedWriter,
) -> None:
    here, there = server(writer), server(writer)
    before = await there.now()
    await here.record(ENTRIES)
    read = await there.read(before - 1)
    assert [purge.entry for purge in read] == ENTRIES
    assert all(before - 1 < purge.purged_at < before + 60 for purge in read)
    assert await here.read(0) == []


async def test_facts_from_before_a_purge_are_not_stored(
    writer: LeasedWriter, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    since = await database.now()
    await server(writer).record([PurgeEntry(7)])
    assert not await database.save_facts(7, facts, since=since)
    assert not await database.save_facts(7, facts, since=0)
    assert await database.save_facts(8, facts, since=since)
    assert await database.save_facts(7, facts, since=await database.now() + 1)


async def test_a_purge_of_sizes_leaves_facts_valid(
    writer: LeasedWriter, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    since = await database.now()
    await server(writer).record([ENTRIES[1]])
    assert await database.save_facts(7, facts, since=since)


async def test_facts_are_not_stored_beside_a_purge_that_is_being_recorded(
    writer: LeasedWriter, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    since = await database.now()
    async with writer.transaction() as connection:
        await connection.execute(delete(media_facts).where(media_facts.c.media_id == 7))
        await connection.execute(announcement([PurgeEntry(7)]))
        saving = asyncio.create_task(database.save_facts(7, facts, since=since))
        waiting = (await asyncio.wait([saving], timeout=0.2))[1]
        assert waiting, "the purge was not waited for"
    assert not await saving


async def test_a_purge_of_everything_or_of_a_user_is_one_step_of_an_epoch(
    writer: LeasedWriter,
) -> None:
    table, there = server(writer), server(writer)
    before = await there.now()
    assert (await table.advance()).epoch == 1
    assert (await table.advance(7)).epoch == 1
    assert (await there.advance(7)).epoch == 2
    # Unlike purges, also those of this server: an epoch is the same wherever it was set.
    read = {one.user_id: one for one in await table.epochs(before - 1)}
    assert {user_id: one.epoch for user_id, one in read.items()} == {EVERYONE: 1, 7: 2}
    assert all(before - 1 < one.purged_at < before + 60 for one in read.values())
    assert await table.epochs(before + 3600) == []
    await table.delete_old()
    assert len(await table.epochs(0)) == 2


async def test_simultaneous_purges_of_a_user_are_all_counted_or_refused(
    writer: LeasedWriter,
) -> None:
    table = server(writer)
    ended = await asyncio.gather(*[table.advance(7) for _ in range(8)], return_exceptions=True)
    refused = [one for one in ended if isinstance(one, DatabaseUnavailable)]
    numbers = sorted(one.epoch for one in ended if not isinstance(one, BaseException))
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) + len(refused) == 8


async def test_pages_follow_each_other(writer: LeasedWriter) -> None:
    await server(writer).record(ENTRIES)
    there = server(writer)
    (first,) = await there.read(0, limit=1)
    rest = await there.read(0, after=first.id)
    assert [purge.entry for purge in (first, *rest)] == ENTRIES


async def test_a_purge_that_commits_after_a_later_one_is_read_within_the_overlap(
    writer: LeasedWriter, database: SqlMediaRepository
) -> None:
    # Only a server hands out ids before the commit; SQLite has one writer at a time.
    if writer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite commits in order")
    there = server(writer)
    async with database.transaction() as late:
        await late.execute(announcement([PurgeEntry(1)]))
        await server(writer).record([PurgeEntry(2)])
        (early,) = await there.read(0)
        assert early.entry == PurgeEntry(2)
    # After the higher id there is nothing, but the overlap contains it.
    assert await there.read(0, after=early.id) == []
    assert [purge.entry.media_id for purge in await there.read(early.purged_at - 30)] == [1, 2]


async def test_a_purge_of_all_sizes_deletes_the_facts_and_another_does_not(
    writer: LeasedWriter, database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    whole, one_size = [await database.insert(new, facts) for _ in range(2)]
    await server(writer).record(
        [PurgeEntry(whole), PurgeEntry(one_size, frozenset({"0a1b2c3d"})), PurgeEntry(99)]
    )
    found = [await database.find(media_id) for media_id in (whole, one_size)]
    assert [media is not None and media.facts is not None for media in found] == [False, True]


async def test_purges_older_than_the_retention_are_deleted(writer: LeasedWriter) -> None:
    table = server(writer)
    await table.record(ENTRIES)
    old = update(purges).where(purges.c.media_id == 7)
    await writer.run(lambda one: one.execute(old.values(purged_at=DatabaseClock() - 86_500)))
    await table.delete_old()
    ((left,),) = await writer.read(select(func.count()).select_from(purges))
    assert left == 1


async def test_a_changed_row_is_reported_with_its_time(
    writer: LeasedWriter, database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    table = server(writer)
    old, changed = [await database.insert(new, facts) for _ in range(2)]
    past = update(media_files).values(updated_at=datetime(2020, 1, 1))  # noqa: DTZ001 - as stored
    await writer.run(lambda one: one.execute(past))
    rename = update(media_files).where(media_files.c.id == changed).values(original_name="b.jpg")
    await writer.run(lambda one: one.execute(rename))
    now = await table.now()
    versions, unsettled = await table.changes(now - 30, now=now)
    assert set(versions) == unsettled == {changed}
    # Later it counts as settled.
    assert (await table.changes(now - 30, now=now + 10))[1] == set()
    assert old in (await table.changes(0, now=now))[0]
    assert await table.changes_are_indexed()


async def test_a_new_fallback_is_announced_to_running_servers(
    writer: LeasedWriter, database: SqlMediaRepository, new: NewMedia, facts: MediaFacts
) -> None:
    media_id = await database.insert(new, facts)
    await database.add_fallback(media_id, replace(facts, content_hash="cd" * 32))
    (purge,) = await server(writer).read(0)
    assert purge.entry == PurgeEntry(media_id, frozenset())


async def test_simultaneous_purges_of_the_same_media_do_not_lock_each_other_out(
    url: str, settings: DatabaseSettings
) -> None:
    async def many() -> None:
        writer = LeasedWriter(url, settings, lease_s=1)
        try:
            for start in range(10):
                await server(writer).record([PurgeEntry((start + one) % 7) for one in range(7)])
        finally:
            await writer.aclose()

    await asyncio.gather(*(many() for _ in range(4)))
    reader = LeasedWriter(url, settings, lease_s=1)
    assert len(await server(reader).read(0)) == 280
    await reader.aclose()


async def test_a_database_without_the_table_is_unavailable(writer: LeasedWriter) -> None:
    await writer.run(lambda one: one.run_sync(purges.drop))
    for call in (server(writer).record(ENTRIES), server(writer).read(0)):
        with pytest.raises(DatabaseUnavailable):
            await call
