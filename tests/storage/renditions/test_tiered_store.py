import asyncio
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import StorageError
from proxy.domain.variant import shape_of
from proxy.storage.renditions.tiered_store import MemoryStore, TieredStore
from tests.storage.renditions.variants import (
    KIB,
    MIB,
    body,
    put,
    read,
    settings,
    variant,
    whole,
    writing,
)
from tests.support.descriptors import open_descriptors
from tests.support.waiting import eventually


@pytest.fixture
async def store(root: Path) -> AsyncIterator[TieredStore]:
    async with TieredStore(root, settings(memory_max_item_bytes=512 * KIB)) as tiered:
        yield tiered


def count(store: TieredStore, tier: str, name: str) -> float:
    return store.statistics()[tier][name]


async def test_a_write_is_in_memory_at_once(store: TieredStore) -> None:
    await put(store, variant(), body())

    held = store.memory.peek(variant().digest)

    assert held is not None
    assert held.body == body()
    assert store.memory.peek(variant().digest) is held


async def test_a_disk_hit_that_fits_is_promoted(store: TieredStore) -> None:
    await put(store.disk, variant(), body())

    first, second = await store.get(variant()), await store.get(variant())

    assert first is not None
    assert second is not None
    assert [first.tier, second.tier] == ["disk", "memory"]


async def test_a_disk_hit_too_long_for_memory_is_not_promoted(store: TieredStore) -> None:
    await put(store, variant(), body(MIB))

    assert await read(store, variant()) == body(MIB)
    assert store.memory.peek(variant().digest) is None


async def test_many_who_ask_at_once_share_one_read(store: TieredStore) -> None:
    await put(store.disk, variant(), body())

    bodies = await asyncio.gather(*[read(store, variant()) for _ in range(500)])

    assert bodies == [body()] * 500
    assert count(store, "disk", "hits") == 1


async def test_many_who_ask_at_once_share_one_miss(store: TieredStore) -> None:
    found = await asyncio.gather(*[store.get(variant()) for _ in range(500)])

    assert found == [None] * 500
    assert count(store, "disk", "misses") == 1


async def test_each_who_asks_at_once_gets_a_long_rendition_of_his_own(store: TieredStore) -> None:
    await put(store, variant(), body(MIB))
    before = open_descriptors()

    found = await asyncio.gather(*[store.get(variant()) for _ in range(10)])
    for rendition in found[:5]:
        assert rendition is not None
        rendition.close()
    for rendition in found[5:]:
        assert rendition is not None
        assert await whole(rendition) == body(MIB)
        rendition.close()

    assert open_descriptors() <= before


async def test_those_who_wait_get_it_when_the_first_one_leaves(store: TieredStore) -> None:
    await put(store.disk, variant(), body())
    first = asyncio.create_task(store.get(variant()))
    others = [asyncio.create_task(read(store, variant())) for _ in range(3)]
    await eventually(lambda: store._reads, interval_s=0)

    first.cancel()

    assert await asyncio.gather(*others) == [body()] * 3
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_one_who_leaves_does_not_take_it_from_the_first(store: TieredStore) -> None:
    await put(store.disk, variant(), body())
    first = asyncio.create_task(read(store, variant()))
    other = asyncio.create_task(store.get(variant()))
    await eventually(lambda: store._reads, interval_s=0)

    other.cancel()

    assert await first == body()
    with pytest.raises(asyncio.CancelledError):
        await other


async def test_what_was_read_before_a_purge_is_not_promoted_after_it(store: TieredStore) -> None:
    await put(store.disk, variant(), body())
    reading = asyncio.create_task(store.get(variant()))
    await eventually(lambda: store._reads, interval_s=0)

    await store.purge(1)
    await reading

    assert store.memory.peek(variant().digest) is None
    assert await store.get(variant()) is None


async def test_what_is_read_while_a_purge_waits_for_the_disk_is_not_kept(
    store: TieredStore,
) -> None:
    await put(store, variant(), body())
    with store.disk._publishing:
        purge = asyncio.create_task(store.purge(1))
        await eventually(lambda: variant().digest not in store.memory, interval_s=0)
        since = store.purges
        looked_up, _ = await asyncio.to_thread(store.look_up, [variant()])
        # The file is still there, and is promoted.
        assert await read(store, variant()) == body()
    await purge
    assert await store.get(variant()) is None
    store.take(variant(), looked_up, since=since)
    assert variant().digest not in store.memory


async def test_what_is_read_while_a_purge_fails_on_disk_is_not_kept_in_memory(
    store: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, variant(), body())

    async def failing(media_id: int, shapes: object) -> int:
        assert await read(store, variant()) == body()
        raise StorageError("the disk fails")

    monkeypatch.setattr(store.disk, "purge", failing)
    with pytest.raises(StorageError):
        await store.purge(1)
    assert variant().digest not in store.memory


async def test_what_is_read_while_all_is_purged_from_disk_is_not_kept_in_memory(
    store: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, variant(), body())
    clear = store.disk.clear

    async def clearing() -> None:
        assert await read(store, variant()) == body()
        await clear()

    monkeypatch.setattr(store.disk, "clear", clearing)
    await store.clear()
    assert variant().digest not in store.memory
    assert await store.get(variant()) is None


async def test_a_read_of_another_shape_is_promoted_whatever_is_purged(store: TieredStore) -> None:
    for width in (300, 480):
        await put(store.disk, variant(width=width), body())
    reads = [asyncio.create_task(store.get(variant(width=width))) for width in (300, 480)]
    await eventually(lambda: len(store._reads) == 2, interval_s=0)

    await store.purge(1, {shape_of(variant(width=300).geometry)})
    await asyncio.gather(*reads)

    assert store.memory.peek(variant(width=300).digest) is None
    assert store.memory.peek(variant(width=480).digest) is not None


async def test_nobody_joins_a_read_that_began_before_a_purge(store: TieredStore) -> None:
    await put(store.disk, variant(), body())
    before = asyncio.create_task(store.get(variant()))
    await eventually(lambda: store._reads, interval_s=0)

    purge = asyncio.create_task(store.purge(1))
    await eventually(lambda: not store._reads, interval_s=0)
    joined = asyncio.create_task(store.get(variant()))
    await asyncio.gather(before, purge, joined)

    assert count(store, "disk", "hits") + count(store, "disk", "misses") == 2


async def test_a_failing_disk_leaves_the_memory_at_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with TieredStore(tmp_path / "file" / "renditions", settings()) as store:
        await put(store, variant(), body())

        assert await read(store, variant()) == body()
        with pytest.raises(StorageError):
            await store.purge(1)
        assert await store.get(variant()) is None
        assert count(store, "disk", "failures_missing") > 0


async def test_both_tiers_are_told_apart_in_the_statistics(store: TieredStore) -> None:
    await put(store, variant(), body(MIB))
    await put(store, variant(2), body())

    assert count(store, "memory", "items") == 1
    assert count(store, "disk", "items") == 2


FINAL, DRAFT = variant(width=300), variant(width=480)
"""Two variants of one image; their sizes do not matter here."""


async def test_a_final_on_disk_precedes_a_draft_in_memory(store: TieredStore) -> None:
    await put(store.disk, FINAL, body(seed="final"))
    store.memory.put(DRAFT, body(seed="draft"))

    found = await store.first((FINAL, DRAFT))

    assert found is not None
    assert found[0] is FINAL
    assert found[1].body == body(seed="final")


async def test_a_draft_in_memory_is_found_if_there_is_no_final(store: TieredStore) -> None:
    store.memory.put(DRAFT, body())

    found = await store.first((FINAL, DRAFT))

    assert found is not None
    assert (found[0], found[1].tier) == (DRAFT, "memory")


async def test_final_and_draft_are_read_from_disk_in_one_thread_job(
    store: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store.disk, DRAFT, body())
    jobs: list[object] = []
    run = store.disk._threads.run

    def count_job(*arguments: Any, **options: Any) -> Any:
        jobs.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(store.disk._threads, "run", count_job)

    found = await store.first((FINAL, DRAFT))

    assert found is not None
    assert (found[0], found[1].tier) == (DRAFT, "disk")
    assert len(jobs) == 1
    assert (count(store, "disk", "hits"), count(store, "disk", "misses")) == (1, 1)
    assert store.memory.peek(DRAFT.digest) is not None, "it is promoted"


async def test_a_miss_of_final_and_draft_counts_as_two(store: TieredStore) -> None:
    assert await store.first((FINAL, DRAFT)) is None
    assert count(store, "disk", "misses") == 2


async def test_those_who_join_get_the_variant_that_they_asked_for(store: TieredStore) -> None:
    await put(store.disk, DRAFT, body())
    asked = [(variant(width=300), variant(width=480)) for _ in range(3)]

    found = await asyncio.gather(*map(store.first, asked))

    for pair, one in zip(asked, found, strict=True):
        assert one is not None
        assert one[0] is pair[1]
    assert count(store, "disk", "hits") == 1


async def test_a_request_for_the_draft_reads_it_if_the_final_was_found(store: TieredStore) -> None:
    await put(store.disk, FINAL, body(seed="final"))
    await put(store.disk, DRAFT, body(seed="draft"))
    reading = asyncio.create_task(store.first((FINAL, DRAFT)))
    await eventually(lambda: store._reads, interval_s=0)

    assert await read(store, DRAFT) == body(seed="draft")
    assert await reading is not None


async def test_a_damaged_final_does_not_hide_the_draft(store: TieredStore) -> None:
    await put(store.disk, DRAFT, body())
    await put(store.disk, FINAL, body(seed="final"))
    path = Path(store.disk._paths.rendition(FINAL))
    path.write_bytes(path.read_bytes()[:-1])

    found = await store.first((FINAL, DRAFT))

    assert found is not None
    assert found[0] is DRAFT
    assert not path.exists()
    assert count(store, "disk", "corrupt") == 1


async def test_an_empty_rendition_is_not_kept(store: TieredStore) -> None:
    await put(store, variant(), body())
    await put(store, variant(), b"")

    assert await read(store, variant()) == body()


async def test_it_is_in_memory_before_the_disk_has_it(store: TieredStore) -> None:
    async with writing(store.disk, variant(2), body()):
        task = asyncio.create_task(put(store, variant(), body()))
        await asyncio.sleep(0)
        assert store.memory.peek(variant().digest) is not None
    await task


async def test_a_write_that_began_before_a_purge_does_not_bring_the_medium_back(
    store: TieredStore,
) -> None:
    ticket = store.ticket(variant())
    await store.purge(1)
    later = store.ticket(variant(width=480))
    await store.put(ticket, body())
    await store.put(later, body())

    assert await store.get(variant()) is None
    assert await read(store, variant(width=480)) == body()


async def test_a_purge_of_some_shapes_voids_the_writes_of_these_only(store: TieredStore) -> None:
    narrow, wide = store.ticket(variant(width=300)), store.ticket(variant(width=480))
    other = store.ticket(variant(2, width=300))
    await store.purge(1, frozenset({shape_of(variant(width=300).geometry)}))
    assert (narrow.void, wide.void, other.void) == (True, False, False)
    await store.purge(1)
    assert (wide.void, other.void) == (True, False)


async def test_a_purge_during_the_disk_write_leaves_nothing(store: TieredStore) -> None:
    async with writing(store.disk, variant(2), body()):
        write = asyncio.create_task(put(store, variant(), body()))
        await eventually(lambda: store.memory.peek(variant().digest) is not None, interval_s=0)
        purge = asyncio.create_task(store.purge(1))
        await asyncio.sleep(0)
    await asyncio.gather(write, purge)

    assert await store.get(variant()) is None
    assert count(store, "disk", "items") == 1


async def test_an_ended_write_is_forgotten(store: TieredStore) -> None:
    await put(store, variant(), body())
    # The thread drops its reference just after it has passed the result on.
    await eventually(lambda: not store._tickets)


def memory(max_bytes: int = 40 * KIB, max_item_bytes: int = 20 * KIB) -> MemoryStore:
    return MemoryStore(settings(memory_max_bytes=max_bytes, memory_max_item_bytes=max_item_bytes))


def test_a_hit_needs_no_loop() -> None:
    store = memory()
    store.put(variant(), body())

    rendition = store.peek(variant().digest)

    assert rendition is not None
    assert rendition.body == body()
    assert rendition.tier == "memory"


def test_an_item_past_the_limit_is_not_kept() -> None:
    store = memory(max_item_bytes=12 * KIB)

    store.put(variant(), body(13 * KIB))

    assert store.statistics()["items"] == 0


def test_what_an_item_past_the_limit_replaces_is_not_kept_either() -> None:
    store = memory(max_item_bytes=12 * KIB)
    store.put(variant(), body(KIB))

    store.put(variant(), body(13 * KIB))

    assert store.peek(variant().digest) is None
    assert store.purge(1) == 0


def test_an_item_as_long_as_the_limit_is_kept() -> None:
    store = memory(max_item_bytes=13 * KIB)

    store.put(variant(), body(13 * KIB))

    assert store.statistics()["items"] == 1


def test_what_was_hit_stays_and_of_the_others_the_oldest_goes_first() -> None:
    store = memory(max_bytes=42 * KIB)
    for media_id in (1, 2, 3):
        store.put(variant(media_id), body())
    assert store.peek(variant(1).digest) is not None

    store.put(variant(4), body())

    kept = [media_id for media_id in (1, 2, 3, 4) if variant(media_id).digest in store]
    assert kept == [1, 3, 4]
    assert store.statistics()["evictions"] == 1


def test_a_large_rendition_goes_before_many_small_ones_that_were_used_as_often() -> None:
    store = memory(max_bytes=64 * KIB)
    store.put(variant(1), body(30 * KIB))
    for media_id in range(2, 9):
        store.put(variant(media_id), body(4 * KIB))

    assert variant(1).digest not in store
    assert all(variant(media_id).digest in store for media_id in range(2, 9))


def test_what_was_popular_once_is_evicted_in_the_end() -> None:
    store = memory(max_bytes=42 * KIB)
    store.put(variant(1), body())
    for _ in range(1000):
        store.peek(variant(1).digest)
    for media_id in range(2, 200):
        store.put(variant(media_id), body())
        store.peek(variant(media_id).digest)

    assert variant(1).digest not in store


def test_an_eviction_postpones_a_hundred_that_were_hit_and_no_more() -> None:
    store = memory(max_bytes=300 * (KIB + 512))
    for media_id in range(1, 301):
        store.put(variant(media_id), body(KIB))
        store.peek(variant(media_id).digest)
    assert store.statistics()["evictions"] == 0

    store.put(variant(301), body(KIB))

    evicted = [media_id for media_id in range(1, 302) if variant(media_id).digest not in store]
    assert evicted == [101]


def test_an_eviction_reports_how_often_the_rendition_was_hit() -> None:
    found: dict[str, int] = {}
    limits = settings(memory_max_bytes=28 * KIB, memory_max_item_bytes=20 * KIB)
    store = MemoryStore(limits, on_eviction=found.__setitem__)
    store.put(variant(1), body())
    for media_id in (2, 3):
        store.put(variant(media_id), body())
        for _ in range(media_id):
            store.peek(variant(media_id).digest)

    assert found == {variant(1).digest: 1}
    assert {one.media_id: one.times for one in store.uses()} == {2: 3, 3: 4}


@pytest.mark.parametrize("end", ["purged", "evicted", "replaced"])
def test_a_rendition_that_is_gone_is_not_kept_alive(end: str) -> None:
    store = memory(max_bytes=20 * KIB)
    store.put(variant(1), body())
    kept = weakref.ref(store._items[variant(1).digest].rendition)
    if end == "purged":
        store.purge(1)
    else:
        store.put(variant(2 if end == "evicted" else 1), body())

    assert kept() is None


def test_deleted_renditions_do_not_accumulate() -> None:
    store = memory()
    for _ in range(5000):
        store.put(variant(1), body(KIB))
        store.delete(variant(1))

    assert len(store._queue) < 200


def test_an_evicted_rendition_leaves_the_index_of_its_medium() -> None:
    store = memory()
    for width in (300, 480, 500, 640):
        store.put(variant(1, width), body())

    assert store.purge(1) == store.statistics()["writes"] - store.statistics()["evictions"]
    assert store.statistics()["bytes"] == 0


def test_a_memory_of_no_bytes_keeps_nothing_and_fails_at_nothing() -> None:
    store = memory(max_bytes=0)

    store.put(variant(), body())

    assert store.peek(variant().digest) is None


def test_bytes_never_pass_the_limit() -> None:
    store = memory()
    for media_id in range(200):
        store.put(variant(media_id), body(100 + media_id))
        assert store.statistics()["bytes"] <= 40 * KIB
