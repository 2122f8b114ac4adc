"""The link to Redis, with a real server that is killed, paused and restarted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from proxy.runtime.redis import RedisLink
from tests.support.clock import Clock
from tests.support.redis import RedisServer
from tests.support.waiting import eventually


@asynccontextmanager
async def linked(
    server: RedisServer, clock: Clock | None = None, *, timeout_s: float = 20
) -> AsyncIterator[RedisLink]:
    link = RedisLink(server.url, prefix="test:", timeout_s=timeout_s, clock=clock or Clock())
    try:
        yield link
    finally:
        await link.aclose()


@asynccontextmanager
async def listening(link: RedisLink) -> AsyncIterator[None]:
    task = asyncio.create_task(link.listen())
    try:
        await eventually(lambda: link.listening)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_command_returns_the_reply_of_redis(redis: RedisServer) -> None:
    async with linked(redis) as link:
        key = link.name("lease")
        assert await link.command("SET", key, "a", "NX", "PX", 60_000) is True
        assert await link.command("SET", key, "b", "NX", fallback="down") is None
        assert redis.execute("GET", "test:lease") == b"a"


def test_no_package_is_imported_before_redis_is_used() -> None:
    code = "import sys, proxy.runtime.redis; print('redis' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "False"


async def test_a_redis_that_is_down_gives_the_fallback_and_is_not_tried_for_a_while(
    redis: RedisServer,
) -> None:
    clock = Clock()
    async with linked(redis, clock) as link:
        assert await link.command("PING")
        redis.kill()
        assert await link.command("PING", fallback="down") == "down"
        assert link.failing
        redis.start()
        assert await link.command("PING", fallback="down") == "down", "the circuit is open"
        assert not await link.publish("news")
        clock.now += 60
        assert await link.command("PING", fallback="down") is True
        assert not link.failing
        assert link.statistics()["failures"] == 1


async def test_a_redis_that_hangs_gives_the_fallback_after_the_timeout(redis: RedisServer) -> None:
    clock = Clock()
    async with linked(redis, clock, timeout_s=0.2) as link:
        # The first connection may take longer than the timeout of this test.
        while await link.command("PING") is None:
            clock.now += 60
        redis.pause()
        assert await link.command("PING", fallback="down") == "down"
        redis.resume()
        clock.now += 60
        while await link.command("PING", fallback="down") == "down":
            clock.now += 60


async def test_after_the_pause_one_command_tries_for_all_others(redis: RedisServer) -> None:
    clock = Clock()
    async with linked(redis, clock) as link:
        redis.kill()
        await link.command("PING")
        clock.now += 60
        redis.start()
        trial = asyncio.create_task(link.command("PING"))
        others = [asyncio.create_task(link.command("PING", fallback="down")) for _ in range(5)]
        assert await trial is True
        assert [await one for one in others] == ["down"] * 5


async def test_an_earlier_command_does_not_end_the_trial_of_another_one(
    redis: RedisServer,
) -> None:
    clock = Clock()
    async with linked(redis, clock) as link:
        earlier = asyncio.create_task(link.command("BLPOP", "earlier", 0))
        await eventually(lambda: _blocked(redis) == 1)
        await link.command("NONSENSE")
        clock.now += 60
        trial = asyncio.create_task(link.command("BLPOP", "trial", 0))
        await eventually(lambda: _blocked(redis) == 2)
        earlier.cancel()
        await asyncio.gather(earlier, return_exceptions=True)
        assert await link.command("PING", fallback="refused") == "refused"
        redis.execute("RPUSH", "trial", "value")
        assert await trial
        assert await link.command("PING") is True


def _blocked(redis: RedisServer) -> int:
    """Return how many clients wait in a command that blocks."""
    return int(redis.execute("INFO", "clients")["blocked_clients"])


async def test_a_wrong_command_and_a_wrong_password_give_the_fallback(redis: RedisServer) -> None:
    async with linked(redis) as link:
        assert await link.command("NONSENSE", fallback="refused") == "refused"
    wrong = RedisLink(f"redis://:wrong@127.0.0.1:{redis.port}/0", prefix="", timeout_s=20)
    redis.execute("CONFIG", "SET", "requirepass", "right-password")
    try:
        assert await wrong.command("PING", fallback="refused") == "refused"
    finally:
        await wrong.aclose()
        redis.kill()  # its next user starts it without a password


async def test_a_message_reaches_every_listener_of_its_channel(redis: RedisServer) -> None:
    received: dict[RedisLink, list[bytes]] = {}
    async with linked(redis) as first, linked(redis) as second:
        for link in (first, second):
            link.subscribe("news", received.setdefault(link, []).append)
            link.subscribe("other", lambda _: pytest.fail("a message of another channel"))
        async with listening(first), listening(second):
            assert await first.publish("news", b"\x00\xff")
            await eventually(lambda: all(received.values()))
    assert list(received.values()) == [[b"\x00\xff"], [b"\x00\xff"]]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "disconnected"])
async def test_a_listener_reconnects_and_reports_that_it_may_have_missed_messages(
    redis: RedisServer, fault: str
) -> None:
    connections = count()
    connected: list[int] = []
    received: list[bytes] = []
    async with linked(redis) as link:
        link.subscribe(
            "news", received.append, connected=lambda: connected.append(next(connections))
        )
        async with listening(link):
            assert len(connected) == 1
            if fault == "killed":
                redis.kill()
                await eventually(lambda: not link.listening)
                redis.start()
            else:
                redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
            await eventually(lambda: len(connected) == 2)
            redis.execute("PUBLISH", "test:news", "again")
            await eventually(lambda: received == [b"again"])


@pytest.mark.slow
async def test_a_listener_notices_that_redis_hangs_without_closing_the_connection(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.runtime.redis._IDLE_S", 0.05)
    async with linked(redis, timeout_s=2) as link:
        link.subscribe("news", lambda _: None)
        async with listening(link):
            redis.pause()
            await eventually(lambda: not link.listening)
            redis.resume()
            await eventually(lambda: link.listening)


async def test_an_idle_connection_stays(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.runtime.redis._IDLE_S", 0.01)
    received: list[bytes] = []
    async with linked(redis) as link:
        link.subscribe("news", received.append)
        async with listening(link):
            await eventually(
                lambda: redis.execute("INFO", "commandstats")["cmdstat_ping"]["calls"] >= 5
            )
            redis.execute("PUBLISH", "test:news", "still there")
            await eventually(lambda: received == [b"still there"])
            assert link.statistics() == {"listening": 1.0, "failures": 0, "messages": 1}
