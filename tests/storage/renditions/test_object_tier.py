"""The third tier: renditions in a bucket of a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from obstore.store import S3Store

from proxy.domain.errors import StorageError
from proxy.domain.variant import Variant, shape_of
from proxy.storage.renditions.disk_state import NO_OBJECT_TIER
from proxy.storage.renditions.object_tier import ObjectTier
from proxy.storage.renditions.tiered_store import TieredStore
from tests.faults.tcpproxy import TcpProxy
from tests.storage.buckets import client, s3_settings
from tests.storage.renditions.variants import body, read, settings, variant
from tests.support.seaweedfs import SeaweedFS
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


class Node(NamedTuple):
    store: TieredStore
    tier: ObjectTier
    proxy: TcpProxy

    def figure(self, name: str) -> float:
        return self.store.object_statistics()[name]

    async def put(self, one: Variant, content: bytes) -> None:
        """Store a rendition, and wait until it is written to the bucket or dropped."""

        def ended() -> float:
            writes = ("writes_stored", "writes_exists", "dropped_queue_full", "dropped_failed")
            return sum(self.figure(name) for name in writes)

        before = ended()
        await self.store.put(self.store.ticket(one), content)
        await eventually(lambda: ended() > before)


@pytest.fixture(scope="module")
def name(seaweedfs: SeaweedFS) -> str:
    return seaweedfs.create_bucket()


@pytest.fixture
def bucket(seaweedfs: SeaweedFS, name: str) -> S3Store:
    return seaweedfs.bucket(name)


@pytest.fixture
async def nodes(
    seaweedfs: SeaweedFS, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[], asyncio.Task[Node]]]:
    async with AsyncExitStack() as stack:

        async def start() -> Node:
            proxy = await stack.enter_async_context(TcpProxy(seaweedfs.port))
            section = s3_settings(seaweedfs, proxy.port)
            tier = ObjectTier(
                reads=client(section, name),
                writes=client(section, name),
                prefix=f"{request.node.name}/",
                max_bytes=1_000_000,
                max_queued_bytes=100_000,
            )
            await stack.enter_async_context(tier)
            stack.push_async_callback(proxy.heal)
            root = tmp_path / f"node-{proxy.port}"
            store = await stack.enter_async_context(TieredStore(root, settings(), objects=tier))
            return Node(store, tier, proxy)

        yield lambda: asyncio.create_task(start())


Nodes = Callable[[], "asyncio.Task[Node]"]


def keys(bucket: S3Store, request: pytest.FixtureRequest) -> list[str]:
    prefix = f"{request.node.name}/"
    return [meta["path"] for page in bucket.list(prefix) for meta in page]


async def test_what_one_server_renders_another_one_finds_and_keeps(nodes: Nodes) -> None:
    first, second = await nodes(), await nodes()
    await first.put(variant(), body())
    assert await read(second.store, variant()) == body()
    assert second.figure("reads_hit") == 1
    # In its memory and on its disk from now on.
    assert variant().digest in second.store.memory
    second.store.memory.clear()
    assert await read(second.store, variant()) == body()
    assert second.figure("reads_hit") == 1


async def test_nothing_is_read_while_its_keys_may_be_those_of_purged_renditions(
    nodes: Nodes,
) -> None:
    node = await nodes()
    await node.put(variant(), body())
    await node.store.clear()
    node.store.skip_objects = True
    assert await read(node.store, variant()) is None
    assert not await node.store.recall((variant(),))
    node.store.skip_objects = False
    assert await read(node.store, variant()) == body()


async def test_hits_in_memory_and_on_disk_request_nothing(nodes: Nodes) -> None:
    node = await nodes()
    draft, final = variant(), variant(width=301)
    await node.put(draft, body())
    node.proxy.refuse()
    assert await read(node.store, draft) == body()
    # A draft in memory is a hit, although its final may be in the bucket.
    found = await node.store.first((final, draft))
    assert found is not None
    assert found[0] is draft
    node.store.memory.clear()
    assert await read(node.store, draft) == body()
    assert node.store.object_statistics() == {**NO_OBJECT_TIER, "writes_stored": 1}


async def test_the_most_wanted_of_several_variants_is_found(nodes: Nodes) -> None:
    first, second = await nodes(), await nodes()
    draft, final = variant(), variant(width=301)
    await first.put(draft, body(seed="draft"))
    found = await second.store.first((final, draft))
    assert found is not None
    assert (found[0], found[1].body) == (draft, body(seed="draft"))
    await first.put(final, body(seed="final"))
    third = await nodes()
    found = await third.store.first((final, draft))
    assert found is not None
    assert (found[0], found[1].body) == (final, body(seed="final"))


async def test_simultaneous_misses_share_one_request(nodes: Nodes) -> None:
    first, second = await nodes(), await nodes()
    await first.put(variant(), body())
    found = await asyncio.gather(*(read(second.store, variant()) for _ in range(50)))
    assert found == [body()] * 50
    assert second.figure("reads_hit") == 1


async def test_the_first_of_two_renders_stays(
    nodes: Nodes, bucket: S3Store, request: pytest.FixtureRequest
) -> None:
    first, second = await nodes(), await nodes()
    await first.put(variant(), body(seed=1))
    (key,) = keys(bucket, request)
    stored = bucket.get(key).bytes()
    await second.put(variant(), body(seed=2))
    assert second.figure("writes_exists") == 1
    assert bucket.get(key).bytes() == stored


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"x" + content[1:],
        lambda content: b"another program's file",
        lambda content: content + b"x",
    ],
)
async def test_a_truncated_or_foreign_object_is_never_served(
    nodes: Nodes,
    bucket: S3Store,
    request: pytest.FixtureRequest,
    damage: Callable[[bytes], bytes],
) -> None:
    first, second = await nodes(), await nodes()
    await first.put(variant(), body())
    (key,) = keys(bucket, request)
    bucket.put(key, damage(bytes(bucket.get(key).bytes())))
    assert await read(second.store, variant()) is None
    assert second.figure("failures_corrupt") == 1
    # It is deleted, so that the next render can be stored.
    await eventually(lambda: not keys(bucket, request))
    await second.put(variant(), body())
    assert await read((await nodes()).store, variant()) == body()


async def test_an_object_of_another_variant_is_never_served(
    nodes: Nodes, bucket: S3Store, request: pytest.FixtureRequest
) -> None:
    first, second = await nodes(), await nodes()
    await first.put(variant(), body())
    (key,) = keys(bucket, request)
    other = variant(width=301)
    bucket.put(key.replace(variant().file_name, other.file_name), bucket.get(key).bytes())
    assert await read(second.store, other) is None
    assert second.figure("failures_corrupt") == 1


async def test_a_purge_deletes_in_the_bucket(
    nodes: Nodes, bucket: S3Store, request: pytest.FixtureRequest
) -> None:
    node = await nodes()
    wide, other = variant(width=301), variant(2)
    for one in (variant(), wide, other):
        await node.put(one, body())
    assert await node.store.purge(1, {shape_of(wide.geometry)}) == 1
    assert len(keys(bucket, request)) == 2
    # Those that are not in the other tiers any more count as well.
    fresh = await nodes()
    assert await fresh.store.purge(1) == 1
    assert [key for key in keys(bucket, request) if other.file_name in key] == keys(bucket, request)
    assert await read(fresh.store, variant()) is None


async def test_nothing_is_read_from_the_bucket_while_a_purge_waits_for_the_disk(
    nodes: Nodes,
) -> None:
    first, second = await nodes(), await nodes()
    await first.put(variant(), body())
    with second.store.disk._publishing:
        purge = asyncio.create_task(second.store.purge(1))
        await eventually(lambda: second.store.purges, interval_s=0)
        assert await read(second.store, variant()) is None
    await purge
    assert await read(second.store, variant()) is None


async def test_a_write_that_began_before_a_purge_is_not_stored(
    nodes: Nodes, bucket: S3Store, request: pytest.FixtureRequest
) -> None:
    node = await nodes()
    node.proxy.delay_s = 0.3
    await asyncio.gather(
        *(node.store.put(node.store.ticket(variant(1, w)), body()) for w in (1, 2))
    )
    # Two are under way, or wait.
    await node.store.purge(1)
    await node.proxy.heal()
    await node.put(variant(2), body())
    assert [key for key in keys(bucket, request) if "/1/" in key] == []


async def test_what_a_purge_could_not_delete_is_not_served_and_deleted_later(
    nodes: Nodes, bucket: S3Store, request: pytest.FixtureRequest
) -> None:
    node = await nodes()
    await node.put(variant(), body())
    node.proxy.refuse()
    with pytest.raises(StorageError):
        await node.store.purge(1)
    assert node.figure("pending_purges") == 1
    await node.proxy.heal()
    # The object is still there.
    assert len(keys(bucket, request)) == 1
    assert await read(node.store, variant()) is None
    node.tier._writes.breaker.open_until = 0
    await node.tier._retry_purges()
    assert keys(bucket, request) == []
    assert node.figure("pending_purges") == 0


async def test_while_the_storage_is_down_misses_are_misses_and_writes_are_dropped(
    nodes: Nodes,
) -> None:
    node = await nodes()
    await node.put(variant(), body())
    node.proxy.refuse()
    assert await read(node.store, variant(3)) is None
    assert node.figure("failures_unavailable") == 1
    # The breaker is open: nothing waits, nothing is requested.
    assert await read(node.store, variant(4)) is None
    assert node.figure("reads_skipped") == 1
    await node.put(variant(5), body())
    assert node.figure("dropped_failed") == 1
    # Memory and disk have all that was written.
    for one in (variant(), variant(5)):
        assert await read(node.store, one) == body()
        node.store.memory.clear()
        assert await read(node.store, one) == body()


async def test_a_storage_that_hangs_costs_one_time_limit(nodes: Nodes) -> None:
    node = await nodes()
    node.tier._reads.timeout_s = 0.2
    node.proxy.go_silent()
    assert await read(node.store, variant()) is None
    assert node.figure("failures_timeout") == 1
    assert await read(node.store, variant(2)) is None
    assert node.figure("reads_skipped") == 1


async def test_writes_beyond_the_limit_are_dropped_and_counted(nodes: Nodes) -> None:
    node = await nodes()
    node.proxy.go_silent()
    for number in range(20):
        await node.store.put(node.store.ticket(variant(number + 1)), body(10_000, number))
    assert node.figure("queued_bytes") <= 100_000
    assert node.figure("dropped_queue_full") > 0
    node.tier._writes.timeout_s = 0.1
    node.proxy.reset()


async def test_a_draft_that_was_replaced_is_deleted(
    nodes: Nodes, bucket: S3Store, request: pytest.FixtureRequest
) -> None:
    node = await nodes()
    await node.put(variant(), body())
    await node.store.delete(variant())
    await eventually(lambda: not keys(bucket, request))


async def test_finals_of_other_servers_are_recalled(nodes: Nodes) -> None:
    first, second = await nodes(), await nodes()
    await first.put(variant(), body())
    one, two = variant(), variant(width=301)
    assert await second.store.recall((one, two)) == {one.digest}
    assert await second.store.digests(1) == {one.digest}
