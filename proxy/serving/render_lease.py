"""Leases on renders: of several processes one renders a variant, and the others use its result.

A lease saves work and guarantees nothing. If leases are unavailable, or their holder sends no
heartbeat, the others render as well: no request waits for long, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum, auto
from functools import partial
from typing import NamedTuple, Protocol

from proxy.domain.variant import Variant
from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.runtime.thread_pool import ThreadPool
from proxy.storage.renditions.render_locks import RenderKey, RenderLocks

HEARTBEAT_TIMEOUT_S = 1.5
"""Maximum time between two heartbeats of a holder. 50 ms are exceeded in every burst of requests,
because the event loops of all processes lag."""
_LIMIT_S = 10.0
"""Maximum wait for a holder that sends heartbeats."""
_RENEW_EVERY_S = 0.25
_FIRST_POLL_S, _LAST_POLL_S = 0.01, 0.05
_DISK_TIMEOUT_S = 1.0
_DISK_PAUSE_S = 5.0


class WaitOutcome(StrEnum):
    """How a wait for another process ended."""

    STORED = auto()
    """It has stored the rendition."""
    TAKEN_OVER = auto()
    """It ended or failed, and this process renders."""
    TIMEOUT = auto()
    """It sent no heartbeat, or took too long, and this process renders as well."""
    FAILED = auto()
    """Leases became unavailable, and this process renders as well."""


NO_WAITS: Mapping[str, float] = {f"waits_{one}": 0 for one in WaitOutcome}
"""The statistics of a server without leases."""


class LeaseState(NamedTuple):
    """The result of an attempt to get a lease."""

    held: bool = False
    stored: bool = False
    """With the lease: whether the rendition may have been stored since the caller looked it up."""
    body: bytes | None = None
    """Without the lease: the rendition, if another process has passed it on. Then nobody renders
    it, otherwise another process does."""
    heartbeat: object = None
    """Changes with each heartbeat of that process."""


class LeaseBackend(Protocol):
    """Where processes agree on who renders. No method raises because it fails."""

    async def attempt(self, keys: Sequence[RenderKey]) -> Sequence[LeaseState] | None:
        """Try to get leases, without waiting for their holders; None: leases are unavailable.

        A cancelled call leaves no lease behind.
        """
        ...

    async def wait(self, key: RenderKey, seconds: float) -> None:
        """Return when a lease may have been released, after ``seconds`` at the latest."""
        ...

    def renew(self, keys: Sequence[RenderKey]) -> None:
        """Send a heartbeat for leases, without waiting."""
        ...

    def release(self, key: RenderKey, body: bytes | None) -> None:
        """Release a lease, without waiting; ``body`` may be passed on to others."""
        ...

    def forget(self, media_id: int) -> None:
        """Pass nothing on here that was rendered before: the image was purged."""
        ...

    async def aclose(self) -> None:
        """Release all leases."""
        ...


@dataclass(slots=True, eq=False)
class RenderLease:
    """The permission to render a variant."""

    key: RenderKey
    working: Callable[[], bool]
    """Whether the render has begun. While it is queued, another process may be faster."""
    backend: LeaseBackend | None = None
    """Where the lease is held. None: nowhere, so another process may render as well."""
    stored: bool = False
    """Whether the rendition may have been stored since the caller looked it up."""
    body: bytes | None = None
    """The rendition, if another process has passed it on."""


class RenderLeases:
    """The leases of this process; call `aclose` at the end."""

    def __init__(
        self,
        *backends: LeaseBackend,
        heartbeat_timeout_s: float = HEARTBEAT_TIMEOUT_S,
        limit_s: float = _LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Each backend is used if those before it are unavailable; they are owned from here on."""
        self._backends = backends
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._limit_s = limit_s
        self._clock = clock
        self._leases: dict[str, RenderLease] = {}
        """Leases that are held or being requested, by the text of their key."""
        self._timer: asyncio.TimerHandle | None = None
        self._waits = dict.fromkeys(WaitOutcome, 0)

    async def acquire(self, variant: Variant, working: Callable[[], bool]) -> RenderLease:
        """Return a lease; before, wait within limits for another process that renders it."""
        key = RenderKey(variant)
        began = heartbeat_at = self._clock()
        poll_s, heartbeat = 0.0, None
        while True:
            (found,) = await self._attempt((key,), working)
            if isinstance(found, RenderLease):
                break
            now = self._clock()
            if found.heartbeat != heartbeat:
                heartbeat, heartbeat_at = found.heartbeat, now
            if now - heartbeat_at >= self._heartbeat_timeout_s or now - began >= self._limit_s:
                self._waits[WaitOutcome.TIMEOUT] += 1
                return RenderLease(key, working)
            poll_s = min(2 * poll_s, _LAST_POLL_S) or _FIRST_POLL_S
            await self._backends[0].wait(key, poll_s)
        if poll_s or found.body is not None:
            self._waits[_outcome(found)] += 1
        return found

    async def claim(self, variants: Sequence[Variant]) -> list[RenderLease]:
        """Return leases of finals that no other process renders; does not wait for any."""
        keys = [RenderKey(one, background=True) for one in variants]
        found = await self._attempt(keys, lambda: True)
        return [one for one in found if isinstance(one, RenderLease)]

    def release(self, lease: RenderLease, body: bytes | None = None) -> None:
        """Let others render, or find what was stored; ``body`` may be passed on. Does not wait."""
        if lease.backend is not None and self._leases.get(lease.key.text) is lease:
            del self._leases[lease.key.text]
            lease.backend.release(lease.key, body)

    def forget(self, media_id: int) -> None:
        """Use no rendition that other processes rendered before: the image was purged."""
        for backend in self._backends:
            backend.forget(media_id)

    async def aclose(self) -> None:
        """Release all leases and close the backends."""
        if self._timer is not None:
            self._timer.cancel()
        for backend in self._backends:
            await backend.aclose()

    def statistics(self) -> Mapping[str, float]:
        """Return for each outcome how many waits ended so."""
        return {f"waits_{outcome}": count for outcome, count in self._waits.items()}

    async def _attempt(
        self, keys: Sequence[RenderKey], working: Callable[[], bool]
    ) -> list[RenderLease | LeaseState]:
        """Return for each key its lease, or the state in which another render has it."""
        leases: dict[str, RenderLease] = {}
        found: dict[str, RenderLease | LeaseState] = {}
        for one in keys:
            other = self._leases.get(one.text)
            if other is None:
                leases[one.text] = RenderLease(one, working)
            else:
                found[one.text] = LeaseState(heartbeat=other.working() and self._clock())
        # Before the request: the backend excludes other processes, and this dict a second request
        # of this one.
        self._leases |= leases
        try:
            found |= await self._request(leases)
        finally:
            for text, lease in leases.items():
                if lease.backend is None:
                    del self._leases[text]
        return [found[one.text] for one in keys]

    async def _request(
        self, leases: Mapping[str, RenderLease]
    ) -> Mapping[str, RenderLease | LeaseState]:
        keys = [one.key for one in leases.values()]
        for backend in self._backends if keys else ():
            states = await backend.attempt(keys)
            if states is None:
                continue
            found: dict[str, RenderLease | LeaseState] = {}
            for (text, lease), state in zip(leases.items(), states, strict=True):
                lease.backend = backend if state.held else None
                lease.stored, lease.body = state.stored, state.body
                found[text] = lease if state.held or state.body is not None else state
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_RENEW_EVERY_S, self._renew)
            return found
        return leases

    def _renew(self) -> None:
        self._timer = None
        if self._leases:
            self._timer = asyncio.get_running_loop().call_later(_RENEW_EVERY_S, self._renew)
        for backend in self._backends:
            working = [
                one.key for one in self._leases.values() if one.backend is backend and one.working()
            ]
            if working:
                backend.renew(working)


def _outcome(lease: RenderLease) -> WaitOutcome:
    if lease.stored or lease.body is not None:
        return WaitOutcome.STORED
    return WaitOutcome.FAILED if lease.backend is None else WaitOutcome.TAKEN_OVER


class DirectoryLeases:
    """Leases of processes that share a rendition directory: locks, in a thread.

    A disk that hangs costs one second. Then no leases are requested for five seconds.
    """

    def __init__(self, root: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is monotonic."""
        self._locks = RenderLocks(root)
        # One thread, so that a release runs after the attempt that it follows.
        self._threads = ThreadPool("render-locks", count=1, timeout_s=_DISK_TIMEOUT_S)
        self._breaker = CircuitBreaker("render_locks", pause_s=_DISK_PAUSE_S, clock=clock)

    async def attempt(self, keys: Sequence[RenderKey]) -> Sequence[LeaseState] | None:
        """Try to lock renders; see `LeaseBackend.attempt`."""
        breaker = self._breaker
        if breaker.open:
            return None
        try:
            with breaker.trial():
                work = partial(self._locks.attempt, keys)
                attempts = await self._threads.run(work, shielded=True)
        except OSError as error:
            # After a timeout the thread may get the locks late.
            self._release(keys)
            breaker.trip(str(error) or "timeout")
            return None
        except asyncio.CancelledError:
            self._release(keys)
            raise
        breaker.succeed()
        return [
            LeaseState(one.locked, stored=one.stored, heartbeat=one.heartbeat) for one in attempts
        ]

    async def wait(self, key: RenderKey, seconds: float) -> None:
        """Return after ``seconds``: locks give no notice."""
        del key
        await asyncio.sleep(seconds)

    def renew(self, keys: Sequence[RenderKey]) -> None:
        """Change what the processes see that wait for these renders."""
        if not self._breaker.failing:
            self._submit(partial(self._locks.renew, keys))

    def release(self, key: RenderKey, body: bytes | None) -> None:
        """Unlock a render. Nothing is passed on: the others share the directory."""
        del body
        self._release((key,))

    def forget(self, media_id: int) -> None:
        """Do nothing: the files of a purged image are gone."""

    def _release(self, keys: Sequence[RenderKey]) -> None:
        self._submit(partial(self._locks.release, keys))

    async def aclose(self) -> None:
        """Release all locks and end the thread."""
        self._submit(self._locks.close)
        await self._threads.aclose()

    def _submit(self, work: Callable[[], None]) -> None:
        # An error means that the thread has ended, and the locks with it.
        with suppress(OSError):
            # The result is retrieved, or asyncio logs a timeout that nobody awaits.
            self._threads.run(work, shielded=True).add_done_callback(asyncio.Future.exception)
