from proxy.storage.renditions.memory_store import MemoryStore
from tests.storage.renditions.variants import KIB, body, put, read, settings, variant


def memory(max_bytes: int = 40 * KIB, max_item_bytes: int = 20 * KIB) -> MemoryStore:
    return MemoryStore(settings(memory_max_bytes=max_bytes, memory_max_item_bytes=max_item_bytes))


def counts(store: MemoryStore) -> dict[str, float]:
    return dict(store.statistics()["memory"])


async def test_a_hit_needs_no_loop() -> None:
    store = memory()
    store.put(variant(), body())

    rendition = store.peek(variant().digest)

    assert rendition is not None
    assert rendition.body == body()
    assert rendition.tier == "memory"


async def test_an_item_past_the_limit_is_not_kept() -> None:
    store = memory(max_item_bytes=12 * KIB)

    await put(store, variant(), body(13 * KIB), pieces=3)

    assert counts(store)["items"] == 0


async def test_what_an_item_past_the_limit_replaces_is_not_kept_either() -> None:
    store = memory(max_item_bytes=12 * KIB)
    await put(store, variant(), body(KIB))

    await put(store, variant(), body(13 * KIB))

    assert await store.get(variant()) is None
    assert store.purge_now(1) == 0


async def test_an_item_as_long_as_the_limit_is_kept() -> None:
    store = memory(max_item_bytes=13 * KIB)

    await put(store, variant(), body(13 * KIB))

    assert counts(store)["items"] == 1


async def test_the_least_recently_used_goes_first() -> None:
    store = memory(max_bytes=42 * KIB)
    for media_id in (1, 2, 3):
        await put(store, variant(media_id), body())
    assert await read(store, variant(1)) is not None

    await put(store, variant(4), body())

    kept = [media_id for media_id in (1, 2, 3, 4) if variant(media_id).digest in store]
    assert kept == [1, 3, 4]
    assert counts(store)["evictions"] == 1


async def test_an_evicted_rendition_leaves_the_index_of_its_medium() -> None:
    store = memory()
    for width in (300, 480, 500, 640):
        await put(store, variant(1, width), body())

    assert store.purge_now(1) == counts(store)["writes"] - counts(store)["evictions"]
    assert counts(store)["bytes"] == 0


async def test_a_memory_of_no_bytes_keeps_nothing_and_fails_at_nothing() -> None:
    store = memory(max_bytes=0)

    await put(store, variant(), body())

    assert await store.get(variant()) is None


async def test_bytes_never_pass_the_limit() -> None:
    store = memory()
    for media_id in range(200):
        await put(store, variant(media_id), body(100 + media_id))
        assert counts(store)["bytes"] <= 40 * KIB
