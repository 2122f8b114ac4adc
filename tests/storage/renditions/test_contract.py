"""What the disk does alone and below the memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.domain.variant import shape_of
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.tiered_store import TieredStore
from tests.storage.renditions.variants import (
    KIB,
    MIB,
    body,
    get,
    put,
    read,
    settings,
    variant,
    whole,
)

Store = DiskStore | TieredStore


@pytest.fixture(params=["disk", "tiered"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    limits = settings(memory_max_item_bytes=4 * MIB, max_rendition_bytes=8 * MIB)
    if request.param == "disk":
        async with DiskStore(tmp_path / "renditions", limits) as disk:
            yield disk
    else:
        async with TieredStore(tmp_path / "renditions", limits) as tiered:
            yield tiered


def total(store: Store, name: str) -> float:
    if isinstance(store, DiskStore):
        return store.statistics()[name]
    return sum(tier[name] for tier in store.statistics().values())


async def test_an_unknown_variant_is_a_miss(store: Store) -> None:
    assert await get(store, variant()) is None
    assert total(store, "misses") >= 1


@pytest.mark.parametrize("length", [1, 13 * KIB, 256 * KIB, 256 * KIB + 1, 3 * MIB])
async def test_what_was_put_comes_back_byte_for_byte(store: Store, length: int) -> None:
    await put(store, variant(), body(length))

    assert await read(store, variant()) == body(length)
    assert total(store, "hits") == 1


async def test_a_part_is_given_as_asked_for(store: Store) -> None:
    content = body(MIB)
    await put(store, variant(), content)

    rendition = await get(store, variant())

    assert rendition is not None
    part = [piece async for piece in rendition.chunks(1000, 700_000)]
    rendition.close()
    assert b"".join(part) == content[1000:700_000]
    assert max(map(len, part)) <= 256 * KIB


async def test_what_is_dropped_is_gone_and_its_neighbours_are_not(store: Store) -> None:
    await put(store, variant(width=300), body())
    await put(store, variant(width=480), body())
    items = total(store, "items")

    await store.delete(variant(width=300))
    await store.delete(variant(width=301))

    assert await get(store, variant(width=300)) is None
    assert variant(width=300).digest not in await store.digests(variant(width=300).media_id)
    assert await read(store, variant(width=480)) == body()
    assert total(store, "items") == items / 2


@pytest.mark.parametrize("length", [100, 3 * MIB])
async def test_the_first_bytes_are_at_hand(store: Store, length: int) -> None:
    await put(store, variant(), body(length))
    rendition = await get(store, variant())
    assert rendition is not None
    assert rendition.head == body(length)[: len(rendition.head)]
    assert len(rendition.head) >= 12
    rendition.close()


async def test_other_variants_of_the_medium_stay_unknown(store: Store) -> None:
    await put(store, variant(width=300), body())

    assert await get(store, variant(width=480)) is None


async def test_writing_again_replaces(store: Store) -> None:
    await put(store, variant(), body(seed="first"))
    items = total(store, "items")

    await put(store, variant(), body(seed="second"))

    assert await read(store, variant()) == body(seed="second")
    assert total(store, "items") == items


async def test_a_purge_drops_all_variants_of_one_medium_only(store: Store) -> None:
    for width in (300, 480, 500):
        await put(store, variant(1, width), body())
    await put(store, variant(2), body())

    assert await store.purge(1) == 3

    assert [await get(store, variant(1, width)) for width in (300, 480, 500)] == [None] * 3
    assert await read(store, variant(2)) == body()


async def test_a_purge_of_an_unknown_medium_drops_nothing(store: Store) -> None:
    assert await store.purge(99) == 0


async def test_a_purge_of_one_shape_leaves_the_others(store: Store) -> None:
    for width in (300, 480, 500):
        await put(store, variant(1, width), body())
    await put(store, variant(2, 300), body())

    shapes = {shape_of(variant(width=width).geometry) for width in (300, 500)}
    assert await store.purge(1, shapes) == 2

    assert [await get(store, variant(1, width)) for width in (300, 500)] == [None] * 2
    assert await read(store, variant(1, 480)) == body()
    assert await read(store, variant(2, 300)) == body()
    assert await store.purge(1, shapes) == 0


async def test_a_rendition_in_hand_stays_readable_after_a_purge(store: Store) -> None:
    await put(store, variant(), body(MIB))
    rendition = await get(store, variant())
    assert rendition is not None

    await store.purge(1)

    assert await whole(rendition) == body(MIB)
    rendition.close()


async def test_closing_twice_does_nothing_more(store: Store) -> None:
    await put(store, variant(), body(3 * MIB))
    rendition = await get(store, variant())
    assert rendition is not None

    rendition.close()
    rendition.close()


async def test_it_tells_what_it_contains(store: Store) -> None:
    await put(store, variant(), body())

    assert variant().digest in await store.digests(variant().media_id)
    assert variant(width=480).digest not in await store.digests(variant(width=480).media_id)


async def test_statistics_count_bytes_items_and_writes(store: Store) -> None:
    await put(store, variant(1), body())
    await put(store, variant(2), body())

    tiers = 1 if isinstance(store, DiskStore) else 2
    assert total(store, "items") == 2 * tiers
    assert total(store, "writes") == 2 * tiers
    assert 26 * KIB * tiers <= total(store, "bytes") <= 40 * KIB * tiers


async def test_what_there_is_of_a_medium_is_told_at_once(store: Store) -> None:
    assert await store.digests(variant().media_id) == set()
    await put(store, variant(), body(KIB))
    assert await store.digests(variant().media_id) == {variant().digest}
    await store.purge(variant().media_id)
    assert await store.digests(variant().media_id) == set()
