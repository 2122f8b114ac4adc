"""Two servers with one database: each applies the purges of the other and changes of rows."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog
from obstore.store import MemoryStore
from sqlalchemy import delete, update

from proxy.app.storage import StorageServices, open_storage
from proxy.domain.errors import BucketPurgePending, MediaRowInvalid, StorageError
from proxy.domain.variant import PurgeEntry, Shapes, shape_of
from proxy.runtime.supervised_task import cancel
from proxy.serving import purge_feed
from proxy.serving.purge_feed import PurgeFeed
from proxy.settings import Settings
from proxy.storage.bucket import Bucket, BucketUnavailable
from proxy.storage.database import NewMedia
from proxy.storage.database.purge_table import announcement
from proxy.storage.database.tables import DatabaseClock, media_files, purge_epochs, purges
from proxy.storage.renditions.object_tier import ObjectTier
from proxy.storage.renditions.tiered_store import TieredStore
from tests.storage.database.conftest import facts, new
from tests.storage.renditions.variants import body, put, read, variant
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

__all__ = ("facts", "new")


class Pair:
    """Two servers with separate directories, whose feeds run only when a test calls them."""

    def __init__(self, root: Path, stack: AsyncExitStack) -> None:
        self.root = root
        self._stack = stack
        self._open: dict[str, AsyncExitStack] = {}
        self.cluster: dict[str, object] = {}

    async def server(self, name: str, **database: object) -> StorageServices:
        url = f"sqlite+aiosqlite:///{self.root / 'one.db'}"
        settings = Settings.model_validate(
            {
                "data_dir": str(self.root / name),
                "database": {"url": url, **database},
                "cluster": self.cluster,
            }
        )
        self._open[name] = stack = await self._stack.enter_async_context(AsyncExitStack())
        return await stack.enter_async_context(open_storage(settings))

    async def stop(self, name: str) -> None:
        await self._open.pop(name).aclose()


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(purge_feed, "_SYNC_EVERY_S", 3600)
    for name in ("here", "there"):
        (tmp_path / name / "originals").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        yield Pair(tmp_path, stack)


async def fill(server: StorageServices) -> None:
    for media_id in (1, 2):
        for width in (300, 480):
            await put(server.renditions, variant(media_id, width), body())


async def stored(server: StorageServices) -> list[tuple[int, int]]:
    """Return media and widths on disk, after checking that no others are in memory."""
    found = [
        (media_id, width)
        for media_id in (1, 2)
        for width in (300, 480)
        if await read(server.renditions.disk, variant(media_id, width)) is not None
    ]
    memory = [key for key in found if server.renditions.memory.peek(variant(*key).digest)]
    assert server.renditions.memory.statistics()["items"] == len(memory)
    return found


async def test_a_purge_reaches_memory_and_disk_of_another_server_once(pair: Pair) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    for server in (here, there):
        await fill(server)
    assert (await here.purger.medium(1)).dropped == 2
    await there.purge_feed.sync()
    assert await stored(there) == [(2, 300), (2, 480)]
    await fill(there)
    await fill(here)
    for server in (here, there):
        await server.purge_feed.sync()
        assert len(await stored(server)) == 4


async def test_a_purge_of_a_shape_leaves_the_others(pair: Pair) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    shape = shape_of(variant(1, 300).geometry)
    await here.writer.run(
        lambda one: one.execute(announcement([PurgeEntry(1, frozenset({shape}))]))
    )
    await there.purge_feed.sync()
    assert await stored(there) == [(1, 480), (2, 300), (2, 480)]


async def test_a_purge_voids_a_write_that_has_begun(pair: Pair) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    ticket = there.renditions.ticket(variant(1))
    await here.purger.medium(1)
    await there.purge_feed.sync()
    await there.renditions.put(ticket, body())
    assert await there.renditions.get(variant(1)) is None


async def test_a_purge_that_becomes_visible_late_is_applied(pair: Pair) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    await here.purger.medium(2)
    await there.purge_feed.sync()
    # Its id and its time precede what was read already.
    late = announcement([PurgeEntry(1)])
    await here.writer.run(lambda one: one.execute(late))
    back = update(purges).where(purges.c.media_id == 1)
    await here.writer.run(
        lambda one: one.execute(back.values(id=0, purged_at=DatabaseClock() - 25))
    )
    back = update(purges).where(purges.c.media_id == 1).values(id=10)
    await here.writer.run(lambda one: one.execute(back))
    await there.purge_feed.sync()
    assert await stored(there) == []


async def test_a_server_that_was_away_has_applied_what_it_missed_when_it_is_open(
    pair: Pair,
) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    now = await there.purge_feed._table.now()
    await pair.stop("there")
    # It stopped two hours ago and missed a purge an hour ago: longer than what is read again.
    (pair.root / "there" / "renditions" / "purged-until").write_text(str(now - 7200))
    await here.purger.medium(1)
    await here.writer.run(
        lambda one: one.execute(update(purges).values(purged_at=DatabaseClock() - 3600))
    )
    there = await pair.server("there")
    assert await read(there.renditions.disk, variant(1, 300)) is None
    assert await read(there.renditions.disk, variant(2, 300)) is not None
    await there.purge_feed.check()


async def test_renditions_of_an_earlier_version_are_purged_by_all_that_is_recorded(
    pair: Pair,
) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    await pair.stop("there")
    (pair.root / "there" / "renditions" / "purged-until").unlink()
    await here.purger.medium(1)
    await here.writer.run(
        lambda one: one.execute(update(purges).values(purged_at=DatabaseClock() - 86_400))
    )
    there = await pair.server("there")
    assert await read(there.renditions.disk, variant(1, 300)) is None


async def test_after_longer_than_the_retention_all_renditions_are_deleted(pair: Pair) -> None:
    there = await pair.server("there")
    await fill(there)
    now = await there.purge_feed._table.now()
    await pair.stop("there")
    position = pair.root / "there" / "renditions" / "purged-until"
    position.write_text(str(now - 3 * 86_400))
    there = await pair.server("there", purge_retention_days=4)
    assert await read(there.renditions.disk, variant(1, 300)) is not None
    await pair.stop("there")
    position.write_text(str(now - 3 * 86_400))
    there = await pair.server("there", purge_retention_days=2)
    assert await read(there.renditions.disk, variant(1, 300)) is None
    assert float(position.read_text()) >= now


async def test_a_jump_of_the_clock_deletes_no_renditions(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await pair.server("there", purge_retention_days=2)
    await fill(there)
    now = await there.purge_feed._table.now()
    for jump_days in (365, -365, 3, 0):

        async def jumped(jump_days: int = jump_days) -> float:
            return now + jump_days * 86_400

        monkeypatch.setattr(there.purge_feed._table, "now", jumped)
        await there.purge_feed.sync()
        assert len(await stored(there)) == 4


async def test_a_server_that_read_nothing_for_the_retention_deletes_all_renditions(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await pair.server("there", purge_retention_days=2)
    await fill(there)
    for days, left in ((1, 4), (4, 0)):
        later_s = there.purge_feed._clock() + days * 86_400
        monkeypatch.setattr(there.purge_feed, "_clock", lambda later_s=later_s: later_s)
        await there.purge_feed.sync()
        assert len(await stored(there)) == left


async def test_a_purge_that_fails_on_disk_is_applied_again_and_counts_as_lag(pair: Pair) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    await here.purger.medium(1)
    root = pair.root / "there" / "renditions"
    moved = root.rename(root.with_name("moved"))
    before = there.purge_feed.statistics()["lag_s"]
    await there.purge_feed.sync()
    assert there.purge_feed.statistics()["lag_s"] > before
    assert there.renditions.memory.peek(variant(1, 300).digest) is None
    # Whatever was created meanwhile.
    shutil.rmtree(root, ignore_errors=True)
    moved.rename(root)
    await there.purge_feed.sync()
    assert await read(there.renditions.disk, variant(1, 300)) is None


class _FailingBucket(Bucket):
    """A bucket that cannot be listed while it is down."""

    down = True

    async def keys(self, prefix: str) -> list[str]:
        if self.down:
            raise BucketUnavailable("down")
        return await super().keys(prefix)


def with_bucket(server: StorageServices) -> tuple[_FailingBucket, ObjectTier]:
    """Give a server a third tier, whose background tasks do not run."""
    bucket = _FailingBucket(MemoryStore(), name="test", timeout_s=60, breaker_s=60)
    tier = ObjectTier(
        reads=bucket, writes=bucket, prefix="", max_bytes=10**6, max_queued_bytes=10**6
    )
    server.renditions._objects = tier
    return bucket, tier


async def test_a_purge_that_waits_for_the_bucket_is_applied_once_to_memory_and_disk(
    pair: Pair,
) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    bucket, tier = with_bucket(there)
    before = there.purge_feed._position
    assert before is not None
    await here.purger.medium(1)
    with structlog.testing.capture_logs() as logs:
        await there.purge_feed.sync()
        assert await stored(there) == [(2, 300), (2, 480)]
        # Rendered since: only the bucket still has the old ones.
        await fill(there)
        ticket = there.renditions.ticket(variant(1))
        await there.purge_feed.sync()
    assert len(await stored(there)) == 4
    assert not ticket.void
    assert [one["event"] for one in logs].count("purge_incomplete") == 1
    await there.purge_feed.check()
    assert there.purge_feed._position == before, "a restart reads the purge again"
    bucket.down = False
    await tier._retry_purges()
    await there.purge_feed.sync()
    assert len(await stored(there)) == 4
    assert there.purge_feed._position > before


async def test_a_server_that_restarts_before_its_own_purge_of_the_bucket_repeats_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await pair.server("here")
    await fill(here)
    now = await here.purge_feed._table.now()
    # An hour ago, so that the purge is not in what every start reads.
    here.purge_feed._position = now - 3600
    with_bucket(here)
    with pytest.raises(BucketPurgePending):
        await here.purger.medium(1)
    back = update(purges).values(purged_at=DatabaseClock() - 3500)
    await here.writer.run(lambda one: one.execute(back))
    await here.purge_feed.sync()
    await pair.stop("here")
    purged: list[int] = []

    async def purge(_store: TieredStore, media_id: int, _shapes: Shapes = None) -> int:
        purged.append(media_id)
        return 0

    monkeypatch.setattr(TieredStore, "purge", purge)
    await pair.server("here")
    assert purged == [1]


async def test_a_disk_that_fails_beside_the_bucket_is_purged_again(pair: Pair) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    with_bucket(there)
    await here.purger.medium(1)
    root = pair.root / "there" / "renditions"
    moved = root.rename(root.with_name("moved"))
    await there.purge_feed.sync()
    shutil.rmtree(root, ignore_errors=True)
    moved.rename(root)
    await there.purge_feed.sync()
    assert await read(there.renditions.disk, variant(1, 300)) is None


async def test_a_changed_row_is_read_again_and_the_caches_are_told(
    pair: Pair, new: NewMedia, facts: object
) -> None:
    there = await pair.server("there")
    media_id = await there.repository.insert(new, facts)  # type: ignore[arg-type] # the fixture's
    told: list[int] = []
    there.invalidators.append(told.append)
    assert await there.database.find(media_id) is not None
    await there.purge_feed.sync()
    assert told == [], "it was read after it was inserted"
    changed = update(media_files).values(bulk_path="bulk/other.jpg")
    await there.writer.run(lambda one: one.execute(changed))
    await there.purge_feed.sync()
    assert told == [media_id]
    found = await there.database.find(media_id)
    assert found is not None
    assert found.bulk_path == "bulk/other.jpg"
    await there.writer.run(lambda one: one.execute(delete(media_files)))


async def test_a_row_that_has_become_invalid_does_not_hide_the_other_changes(
    pair: Pair, new: NewMedia, facts: object
) -> None:
    there = await pair.server("there")
    ids = [await there.repository.insert(new, facts) for _ in range(2)]  # type: ignore[arg-type] # the fixture's
    for media_id in ids:
        assert await there.database.find(media_id) is not None
    await there.purge_feed.sync()
    moved = update(media_files).values(bulk_path="bulk/other.jpg")
    await there.writer.run(lambda one: one.execute(moved))
    # Another program has written bytes that are not text. Changes are read newest first.
    damage = "UPDATE media_files SET bulk_path = x'ff', updated_at = datetime('now') WHERE id = 2"
    await there.writer.run(lambda one: one.execute(sa.text(damage)))
    await there.purge_feed.sync()
    other = await there.database.find(ids[0])
    assert other is not None
    assert other.bulk_path == "bulk/other.jpg"
    with pytest.raises(MediaRowInvalid):
        await there.database.find(ids[1])
    await there.purge_feed.check()


async def test_a_row_that_is_cached_as_it_is_is_not_read_again(
    pair: Pair, new: NewMedia, facts: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set back a year makes the feed list all rows of that year."""
    there = await pair.server("there")
    media_id = await there.repository.insert(new, facts)  # type: ignore[arg-type] # the fixture's
    old = update(media_files).values(updated_at=datetime(2026, 1, 31, 12, tzinfo=UTC))
    await there.writer.run(lambda one: one.execute(old))
    assert await there.database.find(media_id) is not None
    refreshed: list[int] = []

    async def refresh(one: int) -> bool:
        refreshed.append(one)
        return False

    async def january() -> float:
        return 1_769_000_000.0

    monkeypatch.setattr(there.database, "refresh", refresh)
    monkeypatch.setattr(there.purge_feed._table, "now", january)
    await there.purge_feed.sync()
    assert refreshed == []
    there.database.invalidate(media_id)
    there.purge_feed._versions = {}
    await there.purge_feed.sync()
    assert refreshed == [media_id], "control: the cached row is not known to be this one"


async def test_a_row_of_any_updated_at_does_not_stop_the_feed(
    pair: Pair, new: NewMedia, facts: object
) -> None:
    there = await pair.server("there")
    media_id = await there.repository.insert(new, facts)  # type: ignore[arg-type] # the fixture's
    good = await there.database.find(media_id)
    assert good is not None
    for text in ("'zzz'", "''", "0", "9999999999", "NULL", "x'ff'", "'0000-00-00 00:00:00'"):
        # Cached, so that the feed reads it again.
        there.database._rows[media_id] = good, math.inf
        damage = sa.text(f"UPDATE media_files SET updated_at = {text}")
        async with there.writer.transaction() as connection:
            await connection.execute(damage)
        await there.purge_feed.sync()
        assert there.purge_feed.statistics()["lag_s"] < 10


async def test_without_the_table_the_server_is_not_ready_and_recovers(
    pair: Pair,
) -> None:
    there = await pair.server("there")
    await pair.stop("there")
    there = await pair.server("there")
    await there.purge_feed.check()
    await there.writer.run(lambda one: one.run_sync(purges.drop))
    feed = PurgeFeed(
        table=there.purge_feed._table,
        purger=there.purger,
        rows=there.database,
        journal=there.purge_feed._journal,
        store=there.renditions,
        query_timeout_s=1,
    )
    await feed.sync()
    with pytest.raises(StorageError):
        await feed.check()
    await there.writer.run(lambda one: one.run_sync(purges.create))
    await feed.sync()
    await feed.check()


async def test_a_slow_query_for_changed_rows_is_run_rarely_if_there_is_no_index(
    pair: Pair,
) -> None:
    there = await pair.server("there")
    feed = there.purge_feed
    await feed._slow_down(0.5)
    assert feed._changes_due == 0.0, "the machine is busy"
    async with there.writer.transaction() as connection:
        await connection.execute(sa.text("DROP INDEX ix_media_files_updated_at"))
    await feed._slow_down(0.001)
    assert feed._changes_due == 0.0
    await feed._slow_down(0.5)
    assert feed._changes_due == pytest.approx(feed._clock() + 25, abs=5)


@asynccontextmanager
async def listening(server: StorageServices) -> AsyncIterator[None]:
    """Receive messages of Redis, as a server does when it is built."""
    link = server.redis
    assert link is not None
    task = asyncio.create_task(link.listen())
    await eventually(lambda: link.listening)
    yield
    await cancel(task)


async def move(server: StorageServices, path: str) -> None:
    changed = update(media_files).values(bulk_path=path)
    await server.writer.run(lambda one: one.execute(changed))


async def test_redis_wakes_the_reader_of_another_server_after_a_purge(
    pair: Pair, redis: RedisServer
) -> None:
    pair.cluster = {"redis_url": redis.url, "redis_timeout_s": 20}
    here, there = await pair.server("here"), await pair.server("there")
    async with listening(there):
        await fill(there)
        await here.purger.medium(1)
        await eventually(lambda: there.purge_feed.statistics()["applied"] == 1)
        assert await stored(there) == [(2, 300), (2, 480)]
    assert here.purge_feed.statistics()["wake_ups"] == 0


async def test_redis_wakes_the_reader_after_a_row_was_changed_by_this_or_another_program(
    pair: Pair, redis: RedisServer, new: NewMedia, facts: object
) -> None:
    pair.cluster = {"redis_url": redis.url, "redis_timeout_s": 20, "redis_prefix": "p:"}
    here, there = await pair.server("here"), await pair.server("there")
    media_id = await here.repository.insert(new, facts)  # type: ignore[arg-type] # the fixture's
    async with listening(there):
        announcements: tuple[Callable[[], object], ...] = (
            lambda: here.changed(media_id),
            lambda: redis.execute("PUBLISH", "p:purges", ""),
        )
        for turn, announce in enumerate(announcements):
            assert await there.database.find(media_id)
            await move(here, f"bulk/{turn}.jpg")
            announce()

            async def seen(path: str = f"bulk/{turn}.jpg") -> bool:
                media = await there.database.find(media_id)
                return media is not None and media.bulk_path == path

            await eventually(seen)


async def test_a_redis_that_hangs_delays_no_purge_and_the_table_has_it(
    pair: Pair, redis: RedisServer
) -> None:
    # The purge would fail this test if it waited: nobody resumes Redis before it has returned.
    pair.cluster = {"redis_url": redis.url, "redis_timeout_s": 60}
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    assert here.redis is not None
    await here.redis.command("PING")
    redis.pause()
    try:
        async with asyncio.timeout(50):
            assert (await here.purger.medium(1)).recorded
        await there.purge_feed.sync()
        assert await stored(there) == [(2, 300), (2, 480)]
    finally:
        redis.resume()


@pytest.mark.parametrize("few", [20, 0])
async def test_a_second_change_in_the_same_second_is_seen_by_a_wake_up_or_the_next_full_read(
    pair: Pair, new: NewMedia, facts: object, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge_feed, "_FEW", few)
    here, there = await pair.server("here"), await pair.server("there")
    media_id = await here.repository.insert(new, facts)  # type: ignore[arg-type] # the fixture's
    await there.database.find(media_id)
    for path in ("bulk/first.jpg", "bulk/second.jpg"):
        await move(here, path)
        await there.purge_feed._sync_recent()
        if not few:
            await there.purge_feed.sync()
        media = await there.database.find(media_id)
        assert media is not None
        assert media.bulk_path == path


async def test_a_purge_of_everything_reaches_another_server_once(pair: Pair) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    for server in (here, there):
        await fill(server)
    assert await here.purger.everything()
    assert await stored(here) == []
    await there.purge_feed.sync()
    assert await stored(there) == []
    assert there.epochs.version("hash", 1) == here.epochs.version("hash", 1) != "hash"
    for server in (here, there):
        await fill(server)
        await server.purge_feed.sync()
        assert len(await stored(server)) == 4


async def test_a_restarted_server_has_the_epochs_and_keeps_what_it_has_rendered_since(
    pair: Pair,
) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await here.purger.everything()
    assert [one async for one in here.purger.user(7)] == []
    old = update(purge_epochs).values(purged_at=DatabaseClock() - 3600)
    await here.writer.run(lambda one: one.execute(old))
    await there.purge_feed.sync()
    await fill(there)
    await pair.stop("there")
    there = await pair.server("there")
    assert len([key async for key in _on_disk(there)]) == 4
    for user_id in (7, 8):
        assert there.epochs.version("hash", user_id) == here.epochs.version("hash", user_id)


async def _on_disk(server: StorageServices) -> AsyncIterator[tuple[int, int]]:
    for key in ((1, 300), (1, 480), (2, 300), (2, 480)):
        if await read(server.renditions.disk, variant(*key)) is not None:
            yield key


async def test_a_server_that_was_away_during_a_purge_of_everything_deletes_its_renditions(
    pair: Pair,
) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    await pair.stop("there")
    await here.purger.everything()
    there = await pair.server("there")
    assert [key async for key in _on_disk(there)] == []
    await there.purge_feed.check()


async def test_a_purge_of_everything_that_fails_on_disk_is_repeated_and_counts_as_lag(
    pair: Pair,
) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    await fill(there)
    await here.purger.everything()
    root = pair.root / "there" / "renditions"
    moved = root.rename(root.with_name("away"))
    before = there.purge_feed.statistics()["lag_s"]
    await there.purge_feed.sync()
    assert there.purge_feed.statistics()["lag_s"] > before
    # Whatever was created meanwhile.
    shutil.rmtree(root, ignore_errors=True)
    moved.rename(root)
    await there.purge_feed.sync()
    assert [key async for key in _on_disk(there)] == []


async def test_a_purge_of_a_user_takes_effect_by_as_many_queries_for_one_image_as_for_many(
    pair: Pair,
) -> None:
    here, there = await pair.server("here"), await pair.server("there")
    effect: list[float] = []
    for media in (1, 2000):
        row = {"user_id": media, "main_api_id": 0, "data_type": "product", "status": "completed"}
        many = media_files.insert().values([row] * media)
        await here.writer.run(lambda one, many=many: one.execute(many))  # type: ignore[misc]
        purged = here.purger.user(media)
        await anext(purged)
        before = there.repository.statistics()["queries"]
        # The first result of many: the others are still to be deleted.
        await there.purge_feed.sync()
        assert there.epochs.version("hash", media) != "hash"
        effect.append(there.repository.statistics()["queries"] - before)
        await purged.aclose()
    assert effect[0] == effect[1]
