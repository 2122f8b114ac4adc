"""Leases on renders in Redis, for servers on several machines."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from cachetools import TTLCache

from proxy.runtime.redis import RedisLink
from proxy.runtime.supervised_task import cancel
from proxy.serving.render_lease import HEARTBEAT_TIMEOUT_S, LeaseState
from proxy.storage.renditions.render_locks import RenderKey

_EXPIRY_S = 0.8 * HEARTBEAT_TIMEOUT_S
"""Shorter than the timeout of waiting servers: one of them gets the lease before all give up."""
_CHANNEL = "rendered"
_RESULT_S = 3.0
"""How long a result is passed on: under load a server may only then begin with a request that
arrived at the same time as those of the others."""
_MAX_BODY_BYTES = 4 * 1024 * 1024
_MAX_PURGED = 100_000
_CLOSE_S = 1.0

# One key for each render. While it lasts: "L", the holder and a counter of its heartbeats;
# afterwards: "D" and the rendition, or nothing if it is too long.

_ATTEMPT = """
local found = {}
for number, key in ipairs(KEYS) do
    local value = redis.call('GET', key)
    local kind = value and string.sub(value, 1, 1)
    if kind == 'L' or (kind == 'D' and #value > 1 and ARGV[number + 2] == '1') then
        found[number] = value
    else
        redis.call('SET', key, 'L' .. ARGV[1], 'PX', ARGV[2])
        found[number] = value and 'S' or 'H'
    end
end
return found
"""
"""Arguments: holder, milliseconds, and for each key whether a result is accepted. Returns for each
key "H" if the caller holds it now, "S" if also a render has just ended, or the value."""

_RENEW = """
for _, key in ipairs(KEYS) do
    local value = redis.call('GET', key)
    if not value or string.sub(value, 2, #ARGV[1] + 1) == ARGV[1] then
        redis.call('SET', key, 'L' .. ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
    end
end
"""
"""Arguments: holder, a number that changes, milliseconds."""

_RELEASE = """
local value = redis.call('GET', KEYS[1])
if not value or string.sub(value, 2, #ARGV[1] + 1) == ARGV[1] then
    redis.call('SET', KEYS[1], 'D' .. ARGV[2], 'PX', ARGV[3])
end
redis.call('PUBLISH', ARGV[4], KEYS[1])
"""
"""Arguments: holder, the rendition or nothing, milliseconds, channel."""


class RedisLeases:
    """Leases that expire unless their holder sends heartbeats.

    Redis has what is being rendered, and each rendition for three seconds: the servers need not
    share a directory. If Redis fails, leases are unavailable.
    """

    def __init__(
        self,
        redis: RedisLink,
        *,
        expiry_s: float = _EXPIRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Subscribe to the notices of other servers: call this before the link listens."""
        self._redis = redis
        self._expiry_ms = round(1000 * expiry_s)
        # The host and the process are for operators. Random, as containers have equal names.
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(8)}"
        self._heartbeats = 0
        self._waiters: dict[bytes, asyncio.Event] = {}
        self._purged: TTLCache[int, None] = TTLCache(_MAX_PURGED, 2 * _RESULT_S, clock)
        # asyncio keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        redis.subscribe(_CHANNEL, self._notice)

    async def attempt(self, keys: Sequence[RenderKey]) -> Sequence[LeaseState] | None:
        """Try to get leases; see `LeaseBackend.attempt`."""
        names = map(self._name, keys)
        accepted = (int(one.variant.media_id not in self._purged) for one in keys)
        arguments = self._holder, self._expiry_ms
        try:
            found = await self._redis.command(
                "EVAL", _ATTEMPT, len(keys), *names, *arguments, *accepted
            )
        except asyncio.CancelledError:
            for one in keys:
                self.release(one, None)
            raise
        return None if found is None else [_state(value) for value in found]

    async def wait(self, key: RenderKey, seconds: float) -> None:
        """Return with the notice of the holder, after ``seconds`` at the latest."""
        name = self._name(key).encode()
        notice = self._waiters.setdefault(name, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await notice.wait()
        except TimeoutError:
            # Notices may be lost, so the caller tries again in any case.
            pass
        finally:
            self._waiters.pop(name, None)

    def renew(self, keys: Sequence[RenderKey]) -> None:
        """Extend leases, also those that have just expired."""
        self._heartbeats += 1
        names = map(self._name, keys)
        arguments = (self._holder, self._heartbeats, self._expiry_ms)
        self._start(self._redis.command("EVAL", _RENEW, len(keys), *names, *arguments))

    def release(self, key: RenderKey, body: bytes | None) -> None:
        """Release a lease, and pass the rendition on."""
        passed_on = body if body is not None and len(body) <= _MAX_BODY_BYTES else b""
        channel = self._redis.name(_CHANNEL)
        arguments = (self._holder, passed_on, round(1000 * _RESULT_S), channel)
        self._start(self._redis.command("EVAL", _RELEASE, 1, self._name(key), *arguments))

    def forget(self, media_id: int) -> None:
        """Accept no result of a render that may have begun before this purge."""
        self._purged[media_id] = None

    async def aclose(self) -> None:
        """Finish what was begun; leases that are held expire. The link is the caller's."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        await cancel(*self._tasks)

    def _name(self, key: RenderKey) -> str:
        return self._redis.name(f"render:{key.text}")

    def _notice(self, name: bytes) -> None:
        waiter = self._waiters.get(name)
        if waiter is not None:
            waiter.set()

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _state(value: bytes) -> LeaseState:
    """Return the state that a value of the attempt script means."""
    kind = value[:1]
    if kind == b"D":
        return LeaseState(body=value[1:])
    if kind == b"L":
        return LeaseState(heartbeat=value)
    return LeaseState(held=True, stored=kind == b"S")
