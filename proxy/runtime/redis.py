"""Redis: commands that return a fallback if Redis fails, and messages between servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from proxy.runtime.circuit_breaker import CircuitBreaker

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

# Many requests may need a lease at once; each command takes a fraction of a millisecond.
_MAX_CONNECTIONS = 16
_PAUSE_S = 5.0
# A connection that a firewall has dropped looks like one without messages, so it is tested.
_IDLE_S = 5.0
_RECONNECT_S = 1.0

UNUSED: Mapping[str, float] = {"listening": 0.0, "failures": 0.0, "messages": 0.0}
"""Statistics of a process without Redis."""

log = structlog.get_logger(__name__)


class _Subscription(NamedTuple):
    received: Callable[[bytes], None]
    connected: Callable[[], None] | None


class RedisFault(Enum):
    """Kinds of failures that `RedisLink.check` finds."""

    UNREACHABLE = auto()
    TIMEOUT = auto()
    REFUSED = auto()
    """An error as an answer: wrong password, missing rights, a replica, no memory."""


class RedisCheck(NamedTuple):
    """The result of `RedisLink.check`."""

    reason: str = ""
    fault: RedisFault | None = None
    """None if all commands succeeded."""
    ping_s: float = 0.0


class RedisLink:
    """One installation's use of a Redis server. Nothing here raises because Redis fails.

    It connects with the first call. After a failure all calls return their fallback at once for
    five seconds; then one call is a trial. The package `redis` is imported by the first call: 24
    MB that a server without Redis does not need.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use a validated URL; ``timeout_s`` limits each call, including the connection."""
        self._url = url
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker("redis", pause_s=_PAUSE_S, clock=clock)
        self._client: Redis | None = None
        self._opening = asyncio.Lock()
        # What the driver raises is known when it is imported.
        self._errors: tuple[type[Exception], ...] = (OSError,)
        self._subscriptions: dict[str, _Subscription] = {}
        self._listening = False
        self._failures = 0
        self._received = 0

    @property
    def failing(self) -> bool:
        """Return whether the last command failed."""
        return self._breaker.failing

    @property
    def listening(self) -> bool:
        """Return whether messages arrive: all channels are subscribed."""
        return self._listening

    def name(self, key: str) -> str:
        """Return the name of a key or channel of this installation in Redis."""
        return self._prefix + key

    async def command(self, *words: str | bytes | float, fallback: Any = None) -> Any:
        """Send a command; return the reply, or ``fallback`` if Redis fails or failed just now.

        The driver converts replies: True for OK, bytes for strings. After a timeout Redis may have
        executed the command. Keys are not prefixed here: see `name`.
        """
        breaker = self._breaker
        if breaker.open:
            return fallback
        try:
            with breaker.trial():
                client = self._client or await self._open_once()
                reply = await self._execute(client, *words)
        except self._errors as error:
            self._failures += 1
            breaker.trip(str(error) or type(error).__name__)
            return fallback
        breaker.succeed()
        return reply

    async def publish(self, channel: str, message: str | bytes = b"") -> bool:
        """Send a message to all servers that listen to a channel; return whether Redis has it."""
        return await self.command("PUBLISH", self.name(channel), message) is not None

    def subscribe(
        self,
        channel: str,
        received: Callable[[bytes], None],
        *,
        connected: Callable[[], None] | None = None,
    ) -> None:
        """Call ``received`` with each message of a channel; call this before `listen` runs.

        ``connected`` is called after each connection: earlier messages may have been missed. Both
        are called on the event loop and must not raise. Own messages arrive too.
        """
        self._subscriptions[self.name(channel)] = _Subscription(received, connected)

    async def listen(self) -> None:
        """Receive messages until cancelled, and reconnect after every failure."""
        failing = False
        while True:
            try:
                await self._receive()
            except self._errors as error:
                # One line for an outage, however often it is retried.
                if self._listening or not failing:
                    log.warning("redis_not_listening", cause=str(error) or type(error).__name__)
                failing = True
                self._failures += 1
            finally:
                self._listening = False
            await asyncio.sleep(_RECONNECT_S)

    async def check(self) -> RedisCheck:
        """Send the commands that this link is used for, whether or not the last one failed.

        It sets a key that expires after a second.
        """
        client = self._client or await self._open_once()
        from redis.exceptions import (  # noqa: PLC0415 - see the class
            AuthenticationError,
            ResponseError,
        )
        from redis.exceptions import TimeoutError as ConnectTimeout  # noqa: PLC0415

        name = self.name("check")
        try:
            # Opens the connection, so its time is not that of PING.
            await self._execute(client, "PING")
            began = time.perf_counter()
            await self._execute(client, "PING")
            ping_s = time.perf_counter() - began
            # What leases (serving/redis_lease.py) and messages use. One by one: Redis does not name
            # a command that a script may not use.
            for words in (
                ("SET", name, "", "PX", 1000),
                ("GET", name),
                ("PUBLISH", name, ""),
                ("EVAL", "return redis.call('GET', KEYS[1])", 1, name),
            ):
                await self._execute(client, *words)
            async with client.pubsub() as channels:
                async with asyncio.timeout(self._timeout_s):
                    await channels.subscribe(name)
                    await channels.get_message(timeout=None)
        except (TimeoutError, ConnectTimeout):
            return RedisCheck(f"no answer within {self._timeout_s:g} s", RedisFault.TIMEOUT)
        except (AuthenticationError, ResponseError) as error:
            return RedisCheck(f"Redis answered: {error}", RedisFault.REFUSED)
        except self._errors as error:
            return RedisCheck(str(error) or type(error).__name__, RedisFault.UNREACHABLE)
        return RedisCheck(ping_s=ping_s)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def statistics(self) -> Mapping[str, float]:
        """Return counts of failures and messages, and whether messages arrive (1) or not (0)."""
        counts = {"failures": self._failures, "messages": self._received}
        return {**UNUSED, "listening": float(self._listening), **counts}

    async def _execute(self, client: Redis, *words: str | bytes | float) -> Any:
        async with asyncio.timeout(self._timeout_s):
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def _open_once(self) -> Redis:
        async with self._opening:
            if self._client is None:
                # The import takes a quarter of a second.
                self._client = await asyncio.to_thread(self._open)
            return self._client

    def _open(self) -> Redis:
        from redis.asyncio import BlockingConnectionPool, Redis  # noqa: PLC0415 - see the class
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        self._errors = (OSError, RedisError)
        return Redis.from_pool(
            BlockingConnectionPool.from_url(
                self._url,
                max_connections=_MAX_CONNECTIONS,
                timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                # With one the driver uses asyncio.wait_for, which in Python 3.11 may lose the
                # cancellation of a task. `command` limits the time as a whole.
                socket_timeout=None,
                # The callers have a fallback that is better than to wait.
                retry=Retry(NoBackoff(), 0),
                # Without the greeting of RESP3 and the library's name: two round trips less.
                protocol=2,
                driver_info=None,
            )
        )

    async def _receive(self) -> None:
        if not self._subscriptions:
            await asyncio.Event().wait()
        client = self._client or await self._open_once()
        async with client.pubsub() as channels:
            async with asyncio.timeout(self._timeout_s):
                await channels.subscribe(*self._subscriptions)
                for _ in self._subscriptions:
                    await channels.get_message(timeout=None)
            log.info("redis_listening", channels=len(self._subscriptions))
            self._listening = True
            for one in self._subscriptions.values():
                if one.connected is not None:
                    one.connected()
            while True:
                message = await self._next(channels)
                if message["type"] == "message":
                    self._received += 1
                    self._subscriptions[message["channel"].decode()].received(message["data"])

    async def _next(self, channels: PubSub) -> dict[str, Any]:
        """Return the next message; test the connection while there is none.

        Raises:
            RedisError: the connection ended.
            OSError: it did, or nothing arrived although a reply was requested.
        """
        while True:
            message: dict[str, Any] | None = await channels.get_message(timeout=_IDLE_S)
            if message is None:
                await channels.ping()
                message = await channels.get_message(timeout=self._timeout_s)
                if message is None:
                    raise TimeoutError("Redis does not answer")
            return message
