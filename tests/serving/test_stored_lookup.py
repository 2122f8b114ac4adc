"""One thread job for the rows and files of many requests, and what must not come out of it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_THREAD, getrusage
from typing import Any

import pytest

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import DataType, MediaStatus
from proxy.domain.request import parse_request
from proxy.domain.variant import Variant
from proxy.serving.stored_lookup import StoredLookup, StoredRendition
from proxy.settings import DatabaseSettings, RenditionSettings
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.row_cache import CachedMediaRepository
from proxy.storage.database.schema import MEDIA, upgrade
from proxy.storage.renditions.tiered_store import TieredStore
from tests.serving.bench import BEFORE, PLANNER
from tests.support.mariadb import MariaDB
from tests.support.waiting import eventually
from tests.web.plans import FACTS

ACCEPT = "image/avif,*/*"
WANTED = parse_request("size=thumbnail", sizes=PLANNER.rules.sizes)
NEW = NewMedia(7, DataType.PRODUCT, "a.jpg", "bulk/a.jpg")


class Stored:
    """Rows in a real database and finals on a real disk, none of them in memory."""

    def __init__(self, repository: SqlMediaRepository, store: TieredStore, root: Path) -> None:
        self.root = root
        self.repository = repository
        self.rows = CachedMediaRepository(repository, repository.settings)
        self.store = store
        self.jobs = 0
        self._run = store.run
        store.run = self._counted
        self.read_rows: Any = repository.find_blocking if repository.reads_in_threads else None
        self.lookup = StoredLookup(
            rows=self.rows,
            read_rows=self.read_rows and self._read,
            planner=PLANNER,
            store=store,
        )

    def _read(self, ids: Any) -> Any:
        return self.read_rows(ids)

    async def _counted(self, work: Callable[[], Any]) -> Any:
        self.jobs += 1
        return await self._run(work)

    async def add(self, **changed: Any) -> int:
        """Insert a row with its facts, and store its final on disk."""
        new = replace(NEW, **changed)
        facts = replace(FACTS, source_path=new.bulk_path or "")
        media_id = await self.repository.insert(new, facts)
        media = await self.repository.find(media_id)
        assert media is not None
        assert media.known_facts is not None
        self.variant = variant = PLANNER.plan(media, media.known_facts, WANTED, ACCEPT).variant
        await self.store.disk.put(self.store.ticket(variant), b"final of %d" % media_id)
        return media_id

    async def find(self, media_id: int) -> StoredRendition | None:
        return await self.lookup.find(media_id, WANTED, ACCEPT)

    async def body(self, media_id: int) -> bytes | None:
        found = await self.find(media_id)
        return found.rendition.body if found is not None and found.rendition else None

    def hold_after_read(self) -> Gate:
        """Hold the thread after it has read a file."""
        gate, look_up = Gate(), self.store.look_up

        def held(variants: Sequence[Variant]) -> Any:
            found = look_up(variants)
            gate.wait()
            return found

        self.store.look_up = held  # type: ignore[method-assign]
        return gate


class Gate:
    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.opened.wait(20)


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.slow)])
async def stored(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stored]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'media.db'}"
    if request.param == "mariadb":
        server: MariaDB = request.getfixturevalue("mariadb")
        url = server.url(server.create_database())
    settings = DatabaseSettings()
    await upgrade(url, settings, schema=MEDIA)
    async with AsyncExitStack() as stack:
        repository = await stack.enter_async_context(SqlMediaRepository(url, settings))
        store = await stack.enter_async_context(
            TieredStore(tmp_path / "renditions", RenditionSettings())
        )
        opened = Stored(repository, store, tmp_path / "renditions")
        stack.push_async_callback(opened.rows.aclose)
        stack.push_async_callback(opened.lookup.aclose)
        yield opened


async def test_rows_and_files_of_simultaneous_requests_share_one_hop_and_one_query(
    stored: Stored,
) -> None:
    ids = [await stored.add() for _ in range(12)]
    queries = stored.repository.statistics()["queries"]
    bodies = await asyncio.gather(*map(stored.body, ids))
    assert bodies == [b"final of %d" % one for one in ids]
    assert stored.jobs == 1
    assert stored.repository.statistics()["queries"] - queries == 1


async def test_a_row_that_was_read_is_cached_and_a_file_promoted(stored: Stored) -> None:
    media_id = await stored.add()
    first = await stored.find(media_id)
    assert first is not None
    assert first.rendition is not None
    assert (first.known, first.rendition.tier) == (False, "disk")
    again = await stored.find(media_id)
    assert again is not None
    assert again.rendition is not None
    assert (again.known, again.rendition.tier) == (True, "memory")
    counts = stored.rows.statistics()
    assert (counts["misses"], counts["hits"]) == (1, 1)
    assert stored.rows.peek(media_id) is not None


async def test_equal_requests_share_one_look_up(stored: Stored) -> None:
    media_id = await stored.add()
    found = await asyncio.gather(*(stored.find(media_id) for _ in range(40)))
    assert len(set(map(id, found))) == 1
    assert stored.store.statistics()["disk"]["hits"] == 1


async def test_a_purge_during_a_look_up_keeps_its_file_from_being_promoted(
    stored: Stored,
) -> None:
    media_id = await stored.add()
    gate = stored.hold_after_read()
    before = asyncio.create_task(stored.body(media_id))
    await eventually(gate.reached.is_set)
    stored.rows.changed(media_id)
    await stored.store.purge(media_id)
    # It begins after the purge, so it must not join the look-up from before.
    after = asyncio.create_task(stored.body(media_id))
    await asyncio.sleep(0)
    gate.opened.set()
    assert await before == b"final of %d" % media_id, "the request began before the purge"
    assert await after is None
    assert stored.variant.digest not in stored.store.memory


async def test_a_row_that_changes_during_a_look_up_is_not_cached(stored: Stored) -> None:
    media_id = await stored.add()
    gate = stored.hold_after_read()
    before = asyncio.create_task(stored.body(media_id))
    await eventually(gate.reached.is_set)
    stored.rows.changed(media_id)
    gate.opened.set()
    await before
    known = stored.rows.peek(media_id)
    # With a server the row is read first, and the change expires the cached row.
    assert known is None


async def test_a_damaged_file_is_deleted_and_left_to_a_render(stored: Stored) -> None:
    media_id = await stored.add()
    path = Path(stored.store.disk._paths.rendition(stored.variant))
    path.write_bytes(b"damaged" + path.read_bytes()[7:])
    assert await stored.find(media_id) is None
    assert not path.exists()
    assert stored.store.statistics()["disk"]["corrupt"] == 1


async def test_a_file_that_cannot_be_read_costs_only_its_own_request(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await stored.add(), await stored.add()
    look_up = stored.store.disk.look_up

    def fail(media_id: int, file_name: str) -> Any:
        if media_id == bad:
            raise OSError(5, "Input/output error")
        return look_up(media_id, file_name)

    monkeypatch.setattr(stored.store.disk, "look_up", fail)
    bodies = await asyncio.gather(stored.body(bad), stored.body(good))
    assert list(bodies) == [None, b"final of %d" % good]
    assert stored.store.statistics()["disk"]["failures_io"] == 1


async def test_what_cannot_be_served_from_the_store_is_left_to_the_handler(
    stored: Stored,
) -> None:
    downloading = await stored.add(status=MediaStatus.DOWNLOADING)
    failed = await stored.add(status=MediaStatus.FAILED)
    assert await stored.body(downloading) == b"final of %d" % downloading
    assert await stored.find(failed) is None
    assert await stored.find(999) is None
    assert await stored.find(2**63) is None


async def test_facts_that_are_not_trusted_any_more_are_not_used(stored: Stored) -> None:
    media_id = await stored.add()
    stored.rows.distrust_facts(media_id)
    stored.rows.changed(media_id)
    assert await stored.find(media_id) is None


async def test_a_database_that_fails_opens_the_breaker_and_is_not_asked_again(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    media_id = await stored.add()
    asked = []

    def fail(ids: Any) -> Any:
        asked.append(ids)
        raise DatabaseUnavailable("down", retry_after_s=1)

    async def fail_soon(ids: Any) -> Any:
        return fail(ids)

    if stored.read_rows is None:
        monkeypatch.setattr(stored.repository, "find", fail_soon)
    stored.read_rows = stored.read_rows and fail
    assert await stored.find(media_id) is None
    assert stored.rows.statistics()["failing"] == 1
    assert await stored.find(media_id) is None
    assert len(asked) == 1


async def test_a_cancelled_request_does_not_cancel_the_look_up_of_another(
    stored: Stored,
) -> None:
    media_id = await stored.add()
    gate = stored.hold_after_read()
    first = asyncio.create_task(stored.body(media_id))
    second = asyncio.create_task(stored.body(media_id))
    await eventually(gate.reached.is_set)
    first.cancel()
    gate.opened.set()
    assert await second == b"final of %d" % media_id


async def test_a_slow_disk_gets_a_job_for_each_look_up(stored: Stored) -> None:
    ids = [await stored.add() for _ in range(4)]
    stored.lookup._slow = 1.0
    await asyncio.gather(*map(stored.find, ids))
    assert stored.jobs == len(ids)


async def test_the_disk_counts_as_slow_if_the_kernel_had_to_read_it(stored: Stored) -> None:
    await stored.add()
    file = next(path for path in stored.root.rglob("*") if path.is_file())
    other = await stored.add()
    for path in stored.root.rglob("*"):
        if path.is_file():
            drop_from_memory(path)
    reads = getrusage(RUSAGE_THREAD).ru_inblock
    file.read_bytes()
    if getrusage(RUSAGE_THREAD).ru_inblock == reads:
        pytest.skip("this file system has no disk")
    assert await stored.body(other) == b"final of %d" % other
    assert stored.lookup._slow > 0


def drop_from_memory(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def test_requests_during_a_job_share_the_next_one(stored: Stored) -> None:
    ids = [await stored.add() for _ in range(3)]
    gate = stored.hold_after_read()
    tasks = [asyncio.create_task(stored.body(ids[0]))]
    await eventually(gate.reached.is_set)
    queue = stored.lookup._waiting
    tasks.append(asyncio.create_task(stored.body(ids[1])))
    await eventually(lambda: len(queue) == 1 or stored.jobs > 1)
    tasks.append(asyncio.create_task(stored.body(ids[2])))
    await eventually(lambda: len(queue) == 2 or stored.jobs > 1)
    assert stored.jobs == 1
    gate.opened.set()
    assert await asyncio.gather(*tasks) == [b"final of %d" % one for one in ids]
    assert stored.jobs == 2


async def test_that_nothing_is_stored_is_reported_with_the_plan_and_a_draft_is_not(
    stored: Stored,
) -> None:
    media_id = await stored.add()
    await stored.store.purge(media_id)
    found = await stored.find(media_id)
    assert found is not None
    assert (found.rendition, found.plan.variant.digest) == (None, stored.variant.digest)
    assert found.plan.draft is not None
    await stored.store.disk.put(stored.store.ticket(found.plan.draft), b"draft")
    assert await stored.find(media_id) is None


async def test_a_rendition_of_another_recipe_is_left_to_the_handler(stored: Stored) -> None:
    media_id = await stored.add()
    await stored.store.purge(media_id)
    missing = await stored.find(media_id)
    assert missing is not None
    assert missing.rendition is None
    old = BEFORE.plan(missing.plan.media, FACTS, WANTED, ACCEPT).variant
    await stored.store.disk.put(stored.store.ticket(old), b"old final")
    assert await stored.find(media_id) is None
