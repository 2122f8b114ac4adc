"""Leases: who has lost one writes nothing; the clock is the database's."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import LeaseLost
from proxy.domain.media import Focus, MediaFacts
from proxy.domain.upload import Lease, LeasedItem, Step, StepState
from proxy.domain.variant import PurgeEntry
from proxy.settings import DatabaseSettings
from proxy.storage.database.ingest_queue import IngestQueue
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.purge_table import PurgeTable
from proxy.storage.database.tables import DatabaseClock, media_files
from tests.storage.database.backends import Backend
from tests.storage.database.items import COLUMNS, LEASE_S, OWN, claimed, offer, run_out


async def test_who_has_lost_the_lease_writes_nothing_more(
    queue: IngestQueue,
    writer: LeasedWriter,
    database: SqlMediaRepository,
    facts: MediaFacts,
    backend: Backend,
    url: str,
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    old = item.lease
    await run_out(backend, url)
    await claimed(queue, "w2")
    for write in (
        writer.save_original(item, facts),
        writer.start_attempt(old, Step.RETRIEVE_FILE, worker_id="w1"),
        writer.save_library_file(old, "library/x.jpg"),
        queue.finish(old),
        queue.fail(old, "no", again_in_s=1),
        queue.fail_permanently(old, "no"),
        queue.release(old),
        queue.renew(old),
    ):
        with pytest.raises(LeaseLost):
            await write
    media = await database.find(old.media_id)
    assert media is not None
    assert media.status == "downloading"


async def test_the_clock_is_in_seconds_since_1970(writer: LeasedWriter) -> None:
    theirs = float((await writer.read(select(DatabaseClock())))[0][0])
    assert theirs == pytest.approx(time.time(), abs=60)


async def test_the_clock_has_fractions_of_a_second(writer: LeasedWriter) -> None:
    async def read_until_fraction() -> None:
        while float((await writer.read(select(DatabaseClock())))[0][0]) % 1 == 0:
            pass

    async with asyncio.timeout(10):
        await read_until_fraction()


async def test_a_write_renews_the_lease(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    await run_out(backend, url)
    await writer.fenced_execute(lease)
    left = await queue.due_in_s(retries=True)
    assert left == pytest.approx(LEASE_S, abs=5)


async def test_the_statements_of_a_lost_lease_are_not_executed(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    lost = Lease(lease.main_api_id, lease.media_id, "another token")
    with pytest.raises(LeaseLost):
        await writer.fenced_execute(lost, update(media_files).values(user_id=99))
    assert backend.run(url, "SELECT user_id FROM media_files") == ["4"]


async def test_an_error_in_a_fenced_block_undoes_all_of_it(
    queue: IngestQueue, writer: LeasedWriter, backend: Backend, url: str
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(update(media_files).values(user_id=99))
        raise LookupError

    with pytest.raises(LookupError):
        await writer.fenced(lease, work)
    assert backend.run(url, "SELECT user_id FROM media_files") == ["4"]


async def test_facts_are_known_from_filing_to_the_end(
    queue: IngestQueue, writer: LeasedWriter, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    lease = item.lease
    media_id = lease.media_id
    assert await writer.save_original(item, facts) is None
    filed = await database.find(media_id)
    assert filed is not None
    assert filed.servable
    assert not filed.completed
    assert filed.known_facts is not None
    focus = Focus(0.25, 0.75)
    await writer.save_analysis(lease, COLUMNS, OWN, focus=focus)
    await writer.save_library_file(lease, "library/user_4/logo/img/1.png")
    rendered = await database.find(media_id)
    assert rendered is not None
    assert rendered.completed
    assert rendered.library_path == "library/user_4/logo/img/1.png"
    assert rendered.known_facts is not None
    assert rendered.known_facts.focus == focus


@pytest.mark.parametrize("first", [0, 1])
async def test_of_equal_uploads_the_second_that_is_stored_finds_the_first(
    first: int, queue: IngestQueue, writer: LeasedWriter, facts: MediaFacts
) -> None:
    """Whichever has the lower id: a slow download may end after that of a later upload."""
    await offer(queue, 1, 2)
    items = [await claimed(queue), await claimed(queue)]
    early, late = items[first], items[1 - first]
    assert await writer.find_equal(late, facts.content_hash) is None
    assert await writer.save_original(early, facts) is None
    found = (early.lease.media_id, facts.source_path)
    assert await writer.find_equal(late, facts.content_hash) == found
    assert await writer.save_original(late, facts) == found
    await writer.merge(late.lease, found[0])
    again = await claimed_after(queue, early)
    assert (again.upload.id, again.lease.media_id) == (late.upload.id, found[0])


async def claimed_after(queue: IngestQueue, item: LeasedItem) -> LeasedItem:
    """Return the next item once this one has ended."""
    await queue.finish(item.lease)
    return await claimed(queue)


async def test_of_equal_uploads_that_are_stored_at_once_one_is_stored(
    queue: IngestQueue,
    writer: LeasedWriter,
    facts: MediaFacts,
    url: str,
    settings: DatabaseSettings,
) -> None:
    """By two processes, which share no lock but that of the database."""
    other = LeasedWriter(url, settings, lease_s=LEASE_S)
    try:
        for round_ in range(10):
            await offer(queue, 2 * round_ + 1, 2 * round_ + 2)
            items = [await claimed(queue), await claimed(queue)]
            own = replace(facts, content_hash=f"{round_:064x}")
            found = await asyncio.gather(
                writer.save_original(items[0], own), other.save_original(items[1], own)
            )
            stored = items[found.index(None)].lease.media_id
            assert [one for one in found if one is not None] == [(stored, own.source_path)]
    finally:
        await other.aclose()


async def test_attempts_are_counted_before_they_are_made(
    queue: IngestQueue, writer: LeasedWriter
) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    for step in (Step.RETRIEVE_FILE, Step.RETRIEVE_FILE, Step.RESIZE_OPTIMIZE):
        await writer.start_attempt(lease, step, worker_id="w1")
    await queue.release(lease)
    attempts = {step: one.attempts for step, one in (await claimed(queue)).steps.items()}
    assert attempts == {**dict.fromkeys(Step, 0), Step.RETRIEVE_FILE: 2, Step.RESIZE_OPTIMIZE: 1}


async def test_the_state_of_a_step_is_stored(queue: IngestQueue, writer: LeasedWriter) -> None:
    await offer(queue, 1)
    lease = (await claimed(queue)).lease
    await writer.set_step(lease, Step.RETRIEVE_FILE, StepState.FAILED)
    await writer.set_step(lease, Step.RESIZE_OPTIMIZE, StepState.COMPLETED)
    await queue.release(lease)
    steps = (await claimed(queue)).steps
    assert steps[Step.RETRIEVE_FILE].state is StepState.FAILED
    assert steps[Step.RESIZE_OPTIMIZE].state is StepState.COMPLETED
    assert steps[Step.AI_VISUAL_ANALYSIS].state is StepState.PENDING


async def test_a_focus_is_announced_to_all_servers_because_the_row_does_not_change(
    queue: IngestQueue, writer: LeasedWriter, facts: MediaFacts
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    lease = item.lease
    assert await writer.save_original(item, facts) is None
    other = PurgeTable(reader=writer, writer=writer, retention_days=1)
    await writer.save_analysis(lease, COLUMNS, OWN, focus=None)
    assert await other.read(0) == []
    await writer.save_analysis(lease, COLUMNS, OWN, focus=Focus(0.25, 0.75))
    (purge,) = await other.read(0)
    assert purge.entry == PurgeEntry(lease.media_id, frozenset())


async def test_an_analysis_without_a_focus_leaves_the_crop_as_it_is(
    queue: IngestQueue, writer: LeasedWriter, database: SqlMediaRepository, facts: MediaFacts
) -> None:
    await offer(queue, 1)
    item = await claimed(queue)
    lease = item.lease
    assert await writer.save_original(item, facts) is None
    await writer.save_analysis(lease, COLUMNS, OWN, focus=None)
    media = await database.find(lease.media_id)
    assert media is not None
    assert media.known_facts is not None
    assert media.known_facts.focus == facts.focus
