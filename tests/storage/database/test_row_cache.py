from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from proxy.domain.errors import DatabaseUnavailable, MediaRowInvalid
from proxy.domain.media import Media, MediaFacts
from proxy.settings import DatabaseSettings
from proxy.storage.database import MediaRepository
from proxy.storage.database.row_cache import CachedMediaRepository
from tests.support.clock import Clock
from tests.support.waiting import eventually


class FakeDatabase:
    """Rows in a dict; can be down, refuse writes, or hold its answers back until told."""

    def __init__(self) -> None:
        self.rows: dict[int, Media] = {}
        self.asked: list[int] = []
        self.batches: list[list[int]] = []
        self.bad_row: int | None = None
        """Id of a row that makes a query of several rows fail."""
        self.invalid_row: int | None = None
        """Id of a row that cannot be read."""
        self.saved: list[MediaFacts] = []
        self.writes = 0
        self.down = False
        self.read_only = False
        self.time, self.purged_at = 1000.0, 0.0
        self.gate = asyncio.Event()
        self.gate.set()

    async def find(self, media_id: int) -> Media | None:
        self.asked.append(media_id)
        found = self.rows.get(media_id)
        await self.gate.wait()
        self._answer(refuse=self.down)
        if media_id == self.invalid_row:
            raise MediaRowInvalid("invalid")
        return found

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, Media]:
        self.batches.append(list(media_ids))
        await self.gate.wait()
        self._answer(refuse=self.down)
        if self.bad_row in media_ids:
            raise MediaRowInvalid("bad")
        return {one: self.rows[one] for one in media_ids if one in self.rows}

    async def now(self) -> float:
        self._answer(refuse=self.down)
        return self.time

    async def save_facts(self, media_id: int, facts: MediaFacts, *, since: float) -> bool:
        self.writes += 1
        await self.gate.wait()
        self._answer(refuse=self.down or self.read_only)
        if self.purged_at >= since > 0:
            return False
        self.saved.append(facts)
        if media_id in self.rows:
            self.rows[media_id] = replace(self.rows[media_id], facts=facts)
        return True

    def _answer(self, *, refuse: bool) -> None:
        if refuse:
            raise DatabaseUnavailable("down", retry_after_s=7)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings() -> DatabaseSettings:
    return DatabaseSettings(
        row_ttl_s=60, row_stale_s=0, negative_ttl_s=5, breaker_s=1, max_rows=3, retry_after_s=7
    )


@pytest.fixture
async def inner() -> FakeDatabase:
    fake = FakeDatabase()
    fake.rows = {number: _media(number) for number in range(1, 6)}
    return fake


@pytest.fixture
async def cache(
    inner: FakeDatabase, settings: DatabaseSettings, clock: Clock
) -> AsyncIterator[CachedMediaRepository]:
    cache = CachedMediaRepository(inner, settings, clock=clock)
    yield cache
    await cache.aclose()


def _media(media_id: int) -> Media:
    return Media(
        id=media_id,
        user_id=1,
        data_type="product",
        original_name=None,
        mime_type=None,
        file_size=None,
        bulk_path="bulk/2026/11/a.jpg",
        library_path=None,
        status="completed",
        updated_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def test_it_is_a_media_database(cache: CachedMediaRepository) -> None:
    database: MediaRepository = cache
    assert database is cache


async def test_a_known_row_is_not_asked_for_again(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    assert await cache.find(1) == await cache.find(1) == _media(1)
    assert inner.asked == [1]


async def test_an_expired_row_is_asked_for_again(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find(1)
    clock.now += 60
    inner.rows[1] = changed = replace(_media(1), user_id=2)
    assert await cache.find(1) == changed


async def test_an_absent_row_is_believed_absent_for_a_while(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    assert await cache.find(99) is None
    clock.now += 4.9
    assert await cache.find(99) is None
    assert inner.asked == [99]


async def test_an_absent_row_is_asked_for_again_when_it_may_have_come(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find(99)
    clock.now += 5
    inner.rows[99] = _media(99)
    assert await cache.find(99) == _media(99)


async def test_a_row_that_was_deleted_is_absent_after_its_time(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find(1)
    del inner.rows[1]
    clock.now += 60
    assert await cache.find(1) is None
    assert cache.statistics()["items"] == 0


async def test_no_more_rows_are_kept_than_allowed(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    for media_id in (1, 2, 3, 4, 5):
        await cache.find(media_id)
    assert cache.statistics()["items"] == 3


async def test_the_row_least_used_goes_first(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    for media_id in (1, 2, 3, 1, 4):
        await cache.find(media_id)
    assert cache.peek(1) is not None
    assert cache.peek(2) is None


async def test_absent_ids_push_out_no_rows(cache: CachedMediaRepository) -> None:
    await cache.find(1)
    for media_id in range(100, 120):
        await cache.find(media_id)
    assert cache.peek(1) is not None
    assert cache.statistics()["negative_items"] == 3


async def test_those_who_ask_at_once_share_one_query(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.gate.clear()
    asking = [asyncio.create_task(cache.find(1)) for _ in range(10)]
    await eventually(lambda: inner.asked)
    inner.gate.set()
    assert await asyncio.gather(*asking) == [_media(1)] * 10
    assert inner.asked == [1]


async def test_a_waiter_that_leaves_does_not_end_the_query_of_the_others(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.gate.clear()
    first, second = (asyncio.create_task(cache.find(1)) for _ in range(2))
    await eventually(lambda: inner.asked)
    first.cancel()
    await eventually(first.done)
    inner.gate.set()
    assert await second == _media(1)
    assert inner.asked == [1]


async def test_a_failed_query_that_nobody_waits_for_passes_in_silence(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    await cache.find(1)
    clock.now += 60
    inner.down = True
    await cache.find(1)
    clock.now += 1
    await cache.find(1)
    await eventually(lambda: not cache._tasks)
    gc.collect()
    assert inner.asked == [1, 1, 1]
    assert complaints == []


async def test_close_ends_queries_under_way(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.gate.clear()
    asking = asyncio.create_task(cache.find(1))
    await eventually(lambda: inner.asked)
    await cache.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_known_row_is_served_stale_while_the_database_fails(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find(1)
    inner.down = True
    clock.now += 86400
    assert await cache.find(1) == _media(1)
    assert cache.statistics()["stale_answers"] == 1


async def test_an_unknown_row_is_unavailable_while_the_database_fails(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.down = True
    with pytest.raises(DatabaseUnavailable):
        await cache.find(1)


async def test_what_has_just_failed_is_not_asked(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.down = True
    for media_id in (1, 2, 3):
        with pytest.raises(DatabaseUnavailable):
            await cache.find(media_id)
    assert inner.asked == [1]


async def test_a_refusal_without_asking_says_when_to_come_back(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.down = True
    with pytest.raises(DatabaseUnavailable):
        await cache.find(1)
    with pytest.raises(DatabaseUnavailable) as caught:
        await cache.find(2)
    assert caught.value.retry_after_s == 7


async def test_after_a_rest_the_database_is_asked_again(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    inner.down = True
    with pytest.raises(DatabaseUnavailable):
        await cache.find(1)
    inner.down = False
    clock.now += 1
    assert await cache.find(2) == _media(2)
    assert await cache.find(1) == _media(1)


async def test_after_a_rest_one_query_at_a_time_finds_out(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    inner.down = True
    with pytest.raises(DatabaseUnavailable):
        await cache.find(1)
    clock.now += 1
    inner.gate.clear()
    asking = [asyncio.create_task(cache.find(media_id)) for media_id in (2, 3, 4)]
    await eventually(lambda: [task.done() for task in asking] == [False, True, True])
    assert [task.done() for task in asking] == [False, True, True]
    assert inner.asked == [1, 2]
    inner.gate.set()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_known_row_does_not_wait_for_the_query_that_finds_out(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find(1)
    clock.now += 60
    inner.down = True
    await cache.find(1)
    clock.now += 1
    inner.gate.clear()
    assert await cache.find(1) == _media(1)
    await eventually(lambda: inner.asked == [1, 1, 1])
    assert inner.asked == [1, 1, 1]


async def test_a_stale_row_is_fresh_again_once_the_database_is_back(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find(1)
    clock.now += 60
    inner.down = True
    await cache.find(1)
    inner.down = False
    inner.rows[1] = changed = replace(_media(1), user_id=2)
    clock.now += 1
    await cache.find(1)
    await eventually(lambda: not cache._tasks)
    assert await cache.find(1) == changed


async def test_a_cancelled_trial_lets_another_through(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    inner.down = True
    with pytest.raises(DatabaseUnavailable):
        await cache.find(1)
    inner.down = False
    clock.now += 1
    inner.gate.clear()
    asking = asyncio.create_task(cache.find(1))
    await eventually(lambda: len(inner.asked) == 2)
    await cache.aclose()
    await asyncio.wait([asking])
    inner.gate.set()
    assert await cache.find(2) == _media(2)


async def test_peek_tells_until_when_a_row_may_be_used(
    cache: CachedMediaRepository, clock: Clock
) -> None:
    await cache.find(1)
    assert cache.peek(1) == (_media(1), 1060.0)


async def test_peek_gives_nothing_for_an_expired_row(
    cache: CachedMediaRepository, clock: Clock
) -> None:
    await cache.find(1)
    clock.now += 60
    assert cache.peek(1) is None


async def test_peek_gives_nothing_for_an_unknown_row(cache: CachedMediaRepository) -> None:
    assert cache.peek(1) is None


async def test_peek_gives_an_old_row_until_the_failing_database_is_asked_again(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find(1)
    inner.down = True
    clock.now += 100
    await cache.find(1)
    assert cache.peek(1) == (_media(1), 1101.0)


async def test_a_forgotten_row_is_read_again(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    await cache.find(1)
    cache.invalidate(1)
    await cache.find(1)
    assert inner.asked == [1, 1]


async def test_a_forgotten_absence_is_asked_again(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    await cache.find(99)
    inner.rows[99] = _media(99)
    cache.invalidate(99)
    assert await cache.find(99) == _media(99)


async def test_an_answer_from_before_a_forget_is_not_kept(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.gate.clear()
    asking = asyncio.create_task(cache.find(1))
    await eventually(lambda: inner.asked)
    cache.invalidate(1)
    inner.gate.set()
    await asking
    assert cache.peek(1) is None


async def test_saved_facts_are_seen_at_once_and_written(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    await cache.find(1)
    await cache.save_facts(1, facts, since=0)
    assert await cache.find(1) == replace(_media(1), facts=facts)
    assert inner.saved == [facts]


async def begin_saving(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> asyncio.Task[bool]:
    """Begin to save facts; the database waits for its gate."""
    inner.gate.clear()
    saving = asyncio.create_task(cache.save_facts(1, facts, since=0))
    await eventually(lambda: inner.writes)
    return saving


async def test_facts_are_seen_while_they_are_being_written(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    await cache.find(1)
    saving = await begin_saving(cache, inner, facts)
    assert await cache.find(1) == replace(_media(1), facts=facts)
    inner.gate.set()
    await saving


async def test_an_answer_from_before_a_save_does_not_undo_it(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    inner.gate.clear()
    asking = asyncio.create_task(cache.find(1))
    await eventually(lambda: inner.asked)
    saving = await begin_saving(cache, inner, facts)
    inner.gate.set()
    await asyncio.gather(asking, saving)
    assert await cache.find(1) == replace(_media(1), facts=facts)


async def test_refused_facts_serve_from_memory(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    await cache.find(1)
    inner.read_only = True
    await cache.save_facts(1, facts, since=0)
    assert await cache.find(1) == replace(_media(1), facts=facts)
    assert cache.statistics()["refused_saves"] == 1


async def test_refused_facts_outlive_the_row_they_belong_to(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts, clock: Clock
) -> None:
    await cache.find(1)
    inner.read_only = True
    await cache.save_facts(1, facts, since=0)
    clock.now += 60
    assert await cache.find(1) == replace(_media(1), facts=facts)


async def test_refused_facts_are_offered_again_when_the_row_is_read(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts, clock: Clock
) -> None:
    await cache.find(1)
    inner.read_only = True
    await cache.save_facts(1, facts, since=0)
    inner.read_only = False
    clock.now += 60
    await cache.find(1)
    await eventually(lambda: inner.saved)
    assert inner.saved == [facts]
    assert cache.statistics()["unsaved_items"] == 0


async def test_refused_facts_give_way_to_those_that_another_node_saved(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts, clock: Clock
) -> None:
    await cache.find(1)
    inner.read_only = True
    await cache.save_facts(1, facts, since=0)
    theirs = replace(facts, content_hash="cd" * 32)
    inner.rows[1] = replace(_media(1), facts=theirs)
    clock.now += 60
    found = await cache.find(1)
    assert found is not None
    assert found.facts == theirs


async def test_refused_facts_of_another_file_are_dropped(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts, clock: Clock
) -> None:
    await cache.find(1)
    inner.read_only = True
    await cache.save_facts(1, facts, since=0)
    inner.rows[1] = replace(_media(1), bulk_path="bulk/2026/12/b.jpg")
    clock.now += 60
    found = await cache.find(1)
    assert found is not None
    assert found.facts is None


async def test_a_refused_write_does_not_keep_rows_from_being_read(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    inner.read_only = True
    await cache.save_facts(1, facts, since=0)
    assert await cache.find(2) == _media(2)


async def test_what_refused_a_write_is_not_asked_to_write_for_a_while(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    inner.read_only = True
    await cache.save_facts(1, facts, since=0)
    await cache.save_facts(2, facts, since=0)
    assert inner.writes == 1
    assert cache.statistics()["refused_saves"] == 2


async def test_facts_of_a_source_that_was_purged_meanwhile_are_not_used(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    await cache.find(1)
    since = await cache.now()
    inner.purged_at = inner.time
    assert not await cache.save_facts(1, facts, since=since)
    assert await cache.find(1) == _media(1)
    assert cache.statistics()["unsaved_items"] == 0


async def test_facts_are_not_used_if_the_row_changes_while_they_are_written(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    await cache.find(1)
    saving = await begin_saving(cache, inner, facts)
    cache.distrust_facts(1)
    inner.gate.set()
    assert not await saving
    # The purge will delete what the database has stored.
    assert await cache.find(1) == _media(1)


async def test_each_invalidation_of_a_row_has_a_number_of_its_own(
    cache: CachedMediaRepository,
) -> None:
    assert cache.last_invalidation(1) == 0
    cache.invalidate(1)
    first = cache.last_invalidation(1)
    cache.invalidate(2)
    assert cache.last_invalidation(1) == first
    cache.changed(1)
    assert cache.last_invalidation(1) > cache.last_invalidation(2) > first > 0


async def test_a_change_is_known_to_those_who_began_before_it(
    cache: CachedMediaRepository,
) -> None:
    began = cache.changes
    cache.changed(2)
    assert (cache.changed_since(1, began), cache.changed_since(2, began)) == (False, True)
    assert not cache.changed_since(2, cache.changes)
    cache.purged_many()
    assert cache.changed_since(1, began)
    assert not cache.changed_since(1, cache.changes)


async def test_a_change_that_may_be_forgotten_counts_as_one(
    cache: CachedMediaRepository, settings: DatabaseSettings
) -> None:
    began = cache.changes
    for media_id in range(2, 3 + settings.max_rows):
        cache.changed(media_id)
    assert cache.changed_since(1, began)


async def test_while_the_database_fails_its_time_is_the_last_known_one(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    known = inner.time
    assert await cache.now() == known
    inner.down, inner.time = True, known + 1
    assert await cache.now() == known


async def test_forgotten_facts_are_gone_at_once(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    inner.rows[1] = replace(_media(1), facts=facts)
    await cache.find(1)
    cache.distrust_facts(1)
    assert await cache.find(1) == _media(1)
    assert inner.asked == [1]


async def test_void_facts_that_the_database_keeps_are_ignored_until_it_has_others(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    inner.rows[1] = replace(_media(1), facts=facts)
    cache.distrust_facts(1)
    assert await cache.find(1) == _media(1)
    learned = replace(facts, width=facts.width + 1)
    await cache.save_facts(1, learned, since=0)
    cache.invalidate(1)
    assert await cache.find(1) == replace(_media(1), facts=learned)


async def test_facts_are_trusted_again_when_the_database_has_deleted_them(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    inner.rows[1] = replace(_media(1), facts=facts)
    cache.distrust_facts(1)
    cache.facts_deleted(1)
    cache.invalidate(1)
    assert await cache.find(1) == inner.rows[1]


async def test_an_invalidated_row_is_read_again_and_served_while_the_database_fails(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    before = await cache.find(1)
    cache.invalidate(1)
    inner.down = True
    assert await cache.find(1) == before
    assert inner.asked == [1, 1]


async def test_a_refresh_reports_whether_a_cached_row_has_changed(
    cache: CachedMediaRepository, inner: FakeDatabase, facts: MediaFacts
) -> None:
    await cache.find(1)
    inner.rows[1] = replace(_media(1), facts=facts)
    assert not await cache.refresh(1)
    inner.rows[1] = replace(_media(1), bulk_path="bulk/other.jpg")
    assert await cache.refresh(1)
    assert await cache.find(1) == inner.rows[1]
    asked = list(inner.asked)
    assert not await cache.refresh(2)
    assert inner.asked == asked


async def test_a_refresh_of_a_row_that_is_not_valid_any_more_reports_a_change(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    await cache.find(1)
    inner.invalid_row = 1
    assert await cache.refresh(1)
    with pytest.raises(MediaRowInvalid):
        await cache.find(1)


async def test_a_refresh_finds_a_row_that_was_missing(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    assert await cache.find(99) is None
    inner.rows[99] = _media(99)
    await cache.refresh(99)
    assert await cache.find(99) == _media(99)


async def test_statistics_count_answers_by_kind(cache: CachedMediaRepository) -> None:
    for media_id in (1, 1, 1, 99, 99):
        await cache.find(media_id)
    statistics = cache.statistics()
    counted = {name: statistics[name] for name in ("hits", "misses", "negative_hits")}
    assert counted == {"hits": 2, "misses": 2, "negative_hits": 1}
    assert (statistics["items"], statistics["negative_items"]) == (1, 1)


def test_an_attempt_from_before_the_failure_does_not_end_the_trial(
    cache: CachedMediaRepository, clock: Clock
) -> None:
    breaker = cache._reads
    early = cache._attempt(breaker)
    early.__enter__()
    breaker.trip("timeout")
    clock.now += 1
    with cache._attempt(breaker):
        assert early.__exit__(KeyError, KeyError(), None) is not True
        assert breaker.open
    assert not breaker.failing


def test_another_error_does_not_show_that_the_database_fails(cache: CachedMediaRepository) -> None:
    with pytest.raises(KeyError), cache._attempt(cache._reads):
        raise KeyError
    assert not cache._reads.failing


async def test_many_rows_are_read_by_one_query_and_only_those_that_are_not_cached(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    await cache.find(1)
    found = await cache.find_many([1, 2, 3, 99])
    assert set(found) == {1, 2, 3}
    assert (inner.asked, inner.batches) == ([1], [[2, 3, 99]])
    assert await cache.find(99) is None
    assert await cache.find_many([1, 2, 3, 99]) == found
    assert (inner.asked, inner.batches) == ([1], [[2, 3, 99]])


async def test_a_row_that_is_read_with_others_is_not_read_alone_as_well(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.gate.clear()
    many = asyncio.create_task(cache.find_many([1, 2]))
    await eventually(lambda: inner.batches)
    one = asyncio.create_task(cache.find(1))
    await asyncio.sleep(0)
    inner.gate.set()
    assert await one == (await many)[1]
    assert inner.asked == []


async def test_a_row_that_changes_during_the_query_of_many_is_read_again(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.gate.clear()
    many = asyncio.create_task(cache.find_many([1, 2]))
    await eventually(lambda: inner.batches)
    cache.invalidate(1)
    inner.gate.set()
    await many
    await cache.find(1)
    await cache.find(2)
    assert inner.asked == [1]


async def test_a_row_that_spoils_the_query_of_many_costs_only_itself(
    cache: CachedMediaRepository, inner: FakeDatabase
) -> None:
    inner.bad_row = 2
    assert set(await cache.find_many([1, 2, 3])) == {1, 2, 3}
    assert sorted(inner.asked) == [1, 2, 3]


async def test_many_rows_are_answered_from_memory_while_the_database_fails(
    cache: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await cache.find_many([1, 2])
    inner.down = True
    clock.now += 61
    assert set(await cache.find_many([1, 2, 3])) == {1, 2}
    with pytest.raises(DatabaseUnavailable):
        await cache.find(3)


@pytest.fixture
async def lasting(
    inner: FakeDatabase, settings: DatabaseSettings, clock: Clock
) -> AsyncIterator[CachedMediaRepository]:
    """Rows that are served stale for 300 s."""
    changed = settings.model_copy(update={"row_stale_s": 300, "max_rows": 300})
    cache = CachedMediaRepository(inner, changed, clock=clock)
    yield cache
    await cache.aclose()


async def test_expired_rows_are_returned_at_once_and_read_again_by_one_query(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    for media_id in (1, 2, 3):
        await lasting.find(media_id)
    clock.now += 61
    inner.rows[1] = changed = replace(_media(1), user_id=2)
    assert [await lasting.find(one) for one in (1, 2, 3, 1)] == list(map(_media, (1, 2, 3, 1)))
    await eventually(lambda: lasting.peek(1))
    assert await lasting.find(1) == changed
    assert (inner.asked, inner.batches) == ([1, 2, 3], [[1, 2, 3]])


async def test_many_stale_rows_are_read_by_several_queries(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    ids = range(1, 251)
    inner.rows |= {one: _media(one) for one in ids}
    await lasting.find_many(ids)
    inner.batches.clear()
    clock.now += 61
    for one in ids:
        await lasting.find(one)
    await eventually(lambda: all(map(lasting.peek, ids)))
    # One of 250 rows would delay other requests by as long as it takes to convert them.
    assert [len(one) for one in inner.batches] == [100, 100, 50]


async def test_a_row_is_never_stale_after_a_change_was_noticed(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await lasting.find(1)
    inner.rows[1] = changed = replace(_media(1), user_id=2)
    lasting.changed(1)
    assert await lasting.find(1) == changed
    clock.now += 61
    inner.rows[1] = again = replace(_media(1), user_id=3)
    lasting.changed(1)
    assert await lasting.find(1) == again


async def test_a_change_during_the_query_of_stale_rows_is_not_undone_by_it(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await lasting.find(1)
    await lasting.find(2)
    clock.now += 61
    inner.gate.clear()
    await lasting.find(1)
    await lasting.find(2)
    await eventually(lambda: inner.batches)
    lasting.changed(1)
    inner.gate.set()
    await eventually(lambda: lasting.peek(2))
    assert lasting.peek(1) is None


async def test_a_row_that_was_not_read_for_longer_than_allowed_is_waited_for(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await lasting.find(1)
    clock.now += 360
    inner.rows[1] = changed = replace(_media(1), user_id=2)
    assert await lasting.find(1) == changed


async def test_a_deleted_row_is_returned_once_at_most(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await lasting.find(1)
    del inner.rows[1]
    clock.now += 61
    assert await lasting.find(1) == _media(1)
    await eventually(lambda: not lasting.statistics()["items"])
    assert await lasting.find(1) is None


async def test_a_bad_row_among_stale_ones_is_reported_to_its_own_request(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await lasting.find(1)
    await lasting.find(2)
    clock.now += 61
    inner.bad_row = 2
    await lasting.find(1)
    await lasting.find(2)
    await eventually(lambda: inner.batches and not lasting._batches)
    inner.rows[1] = changed = replace(_media(1), user_id=2)
    assert await lasting.find(1) == changed


async def test_stale_rows_are_served_while_the_database_that_is_to_refresh_them_fails(
    lasting: CachedMediaRepository, inner: FakeDatabase, clock: Clock
) -> None:
    await lasting.find(1)
    clock.now += 61
    inner.down = True
    assert await lasting.find(1) == _media(1)
    await eventually(lambda: lasting.statistics()["failing"])
    clock.now += 1000
    assert await lasting.find(1) == _media(1)
