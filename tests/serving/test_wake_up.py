"""Wake-ups between servers by Redis, which may hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.runtime.redis import RedisLink
from proxy.runtime.supervised_task import cancel
from proxy.serving.wake_up import WakeUp
from tests.support.redis import RedisServer
from tests.support.waiting import eventually


class Woken:
    """One server, and how often it was woken."""

    def __init__(self, redis: RedisLink, name: str) -> None:
        self.times = 0
        self.link = redis
        self.wake_up = WakeUp(redis, server=name)
        self.wake_up.on_message(self._wake)

    def _wake(self) -> None:
        self.times += 1


@asynccontextmanager
async def woken(
    server: RedisServer, name: str, *, timeout_s: float = 20, listens: bool = True
) -> AsyncIterator[Woken]:
    link = RedisLink(server.url, prefix="test:", timeout_s=timeout_s)
    one = Woken(link, name)
    task = asyncio.create_task(link.listen()) if listens else None
    try:
        if task is not None:
            # Woken once: before the connection messages may have been missed.
            await eventually(lambda: one.times == 1)
        yield one
    finally:
        await cancel(*[task] if task else [])
        await one.wake_up.aclose()
        await link.aclose()


async def test_the_other_servers_are_woken_and_not_the_one_that_sends(redis: RedisServer) -> None:
    async with woken(redis, "a") as here, woken(redis, "b") as there:
        here.wake_up.send()
        await eventually(lambda: there.times == 2)
        there.wake_up.send()
        await eventually(lambda: here.times == 2)
        assert there.times == 2


def published(redis: RedisServer) -> int:
    """Return the number of messages that the server has received so far."""
    statistics = redis.execute("INFO", "commandstats")
    return int(statistics.get("cmdstat_publish", {"calls": 0})["calls"])


async def test_calls_that_follow_each_other_share_messages_and_the_last_one_is_sent(
    redis: RedisServer,
) -> None:
    async with woken(redis, "a", listens=False) as here, woken(redis, "b") as there:
        # Other tests use the same server.
        before = published(redis)
        redis.pause()
        for _ in range(1000):
            here.wake_up.send()
            await asyncio.sleep(0)
        redis.resume()
        await here.wake_up.aclose()
        assert 0 < published(redis) - before < 10
        await eventually(lambda: there.times >= 2)


async def test_another_program_wakes_all_servers_with_any_text(redis: RedisServer) -> None:
    async with woken(redis, "a") as here, woken(redis, "b") as there:
        redis.execute("PUBLISH", "test:purges", b"\xff")
        await eventually(lambda: here.times == there.times == 2)


async def test_a_redis_that_hangs_delays_no_sender_and_ends_within_its_time_limit(
    redis: RedisServer,
) -> None:
    async with woken(redis, "a", timeout_s=0.05, listens=False) as here:
        redis.pause()
        here.wake_up.send()
        # No loop iteration has passed, so nothing was awaited.
        assert here.link.statistics()["failures"] == 0
        await here.wake_up.aclose()
        assert here.link.failing
        redis.resume()
