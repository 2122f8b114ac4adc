"""Leases in a real Redis: who holds them, what is passed on, and what remains if Redis fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest
from cachetools import TTLCache

from proxy.runtime.redis import RedisLink
from proxy.serving.redis_lease import RedisLeases
from proxy.serving.render_lease import LeaseState, RenderLeases
from proxy.storage.renditions.render_locks import RenderKey
from tests.storage.renditions.variants import variant
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PHOTO, OTHER = RenderKey(variant(1)), RenderKey(variant(2))
BODY = b"rendition"
LONG_S = 60.0
"""No lease expires in a test that is not about it."""

Pair = tuple[RedisLeases, RedisLeases]


async def node(stack: AsyncExitStack, redis: RedisServer, expiry_s: float) -> RedisLeases:
    link = RedisLink(redis.url, prefix="test:", timeout_s=1)
    await stack.enter_async_context(aclosing(link))
    leases = await stack.enter_async_context(aclosing(RedisLeases(link, expiry_s=expiry_s)))
    listening = asyncio.create_task(link.listen())
    stack.callback(listening.cancel)
    await eventually(lambda: link.listening)
    return leases


@pytest.fixture
async def nodes(redis: RedisServer) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        yield await node(stack, redis, LONG_S), await node(stack, redis, LONG_S)


async def attempt(leases: RedisLeases) -> LeaseState:
    found = await leases.attempt([PHOTO])
    assert found is not None
    return found[0]


async def released(leases: RedisLeases, body: bytes | None) -> None:
    leases.release(PHOTO, body)
    await eventually(lambda: not leases._tasks)


async def test_one_node_has_the_lease_of_a_rendition(nodes: Pair) -> None:
    here, there = nodes
    assert await attempt(here) == LeaseState(held=True)
    found = await there.attempt([PHOTO, OTHER])
    assert found is not None
    assert [one.held for one in found] == [False, True]
    assert found[0].heartbeat is not None


async def test_who_waits_gets_the_notice_and_the_rendition(nodes: Pair) -> None:
    here, there = nodes
    await attempt(here)
    assert not (await attempt(there)).held
    waiting = asyncio.create_task(there.wait(PHOTO, LONG_S))
    await asyncio.sleep(0)
    here.release(PHOTO, BODY)
    await waiting
    assert await attempt(there) == LeaseState(body=BODY)


async def test_who_comes_a_moment_later_gets_the_rendition_too(
    nodes: Pair, redis: RedisServer
) -> None:
    here, there = nodes
    await attempt(here)
    await released(here, BODY)
    assert await attempt(there) == LeaseState(body=BODY)
    keys = redis.execute("KEYS", "*")
    assert [redis.execute("GET", key) for key in keys] == [b"D" + BODY]
    assert 0 < redis.execute("PTTL", keys[0]) <= 3000


async def test_after_a_purge_nothing_is_accepted_that_was_rendered_before(
    redis: RedisServer,
) -> None:
    now = 100.0
    async with AsyncExitStack() as stack:
        here, there = await node(stack, redis, LONG_S), await node(stack, redis, LONG_S)
        there._purged = TTLCache(10, there._purged.ttl, lambda: now)
        await attempt(here)
        there.forget(PHOTO.variant.media_id)
        await released(here, BODY)
        assert await attempt(there) == LeaseState(held=True, stored=True)
        await released(there, BODY)
        now += 10
        assert await attempt(there) == LeaseState(body=BODY)


async def test_a_render_that_failed_is_not_passed_on(nodes: Pair) -> None:
    here, there = nodes
    await attempt(here)
    await released(here, None)
    assert (await attempt(there)).held


async def test_long_renditions_are_read_from_the_store(nodes: Pair) -> None:
    here, there = nodes
    await attempt(here)
    await attempt(there)
    await released(here, bytes(5_000_000))
    assert await attempt(there) == LeaseState(held=True, stored=True)


async def test_heartbeats_are_seen_and_extend_a_lease(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        here, there = await node(stack, redis, 1.0), await node(stack, redis, LONG_S)
        await attempt(here)
        first = await attempt(there)
        here.renew([PHOTO])

        async def changed() -> bool:
            return (await attempt(there)).heartbeat != first.heartbeat

        await eventually(changed)


async def test_the_lease_of_a_silent_node_expires(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        here, there = await node(stack, redis, 0.05), await node(stack, redis, LONG_S)
        await attempt(here)

        async def taken_over() -> bool:
            return (await attempt(there)).held

        await eventually(taken_over)
        # The first one continues, late; the lease is not its any more.
        here.renew([PHOTO])
        await released(here, BODY)
        assert not (await attempt(here)).held


async def test_a_lease_that_expired_early_is_extended_by_the_next_sign(redis: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        here, there = await node(stack, redis, LONG_S), await node(stack, redis, LONG_S)
        await attempt(here)
        redis.execute("FLUSHALL")
        here.renew([PHOTO])
        await eventually(lambda: not here._tasks)
        assert not (await attempt(there)).held


async def test_a_cancelled_attempt_leaves_no_lease(nodes: Pair) -> None:
    here, there = nodes
    task = asyncio.create_task(attempt(here))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def free() -> bool:
        return (await attempt(there)).held

    await eventually(free)


@pytest.mark.parametrize("fault", ["killed", "hanging"])
async def test_without_redis_there_are_no_leases_and_nobody_waits_twice(
    nodes: Pair, redis: RedisServer, fault: str
) -> None:
    here, _ = nodes
    leases = RenderLeases(here)
    held = await leases.acquire(OTHER.variant, lambda: True)
    redis.kill() if fault == "killed" else redis.pause()
    for _ in range(20):
        assert (await leases.acquire(PHOTO.variant, bool)).backend is None
    assert here._redis.failing
    leases.release(held, BODY)
    await leases.aclose()
