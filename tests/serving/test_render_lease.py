"""Leases: who renders, how long others wait, and what happens if leases fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from threading import Event

import pytest

from proxy.serving.render_lease import (
    NO_WAITS,
    DirectoryLeases,
    LeaseState,
    RenderLease,
    RenderLeases,
)
from proxy.storage.renditions.render_locks import RenderKey, RenderLocks
from tests.storage.renditions.variants import variant
from tests.support.waiting import eventually

PHOTO, OTHER = variant(1), variant(2)
HELD, TAKEN = LeaseState(held=True), LeaseState()
STORED, PASSED_ON = LeaseState(held=True, stored=True), LeaseState(body=b"rendition")


class Scripted:
    """Answers attempts as it is told, the last answer forever; a wait moves the clock."""

    def __init__(self, *answers: LeaseState | Callable[[], LeaseState] | None) -> None:
        self.answers = list(answers)
        self.now = 100.0
        self.attempts = 0
        self.released: list[RenderKey] = []
        self.body: bytes | None = None
        self.forgotten: list[int] = []
        self.renewed: list[RenderKey] = []
        self.waiting: Callable[[], object] = lambda: None

    async def attempt(self, keys: Sequence[RenderKey]) -> Sequence[LeaseState] | None:
        self.attempts += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        state = answer() if callable(answer) else answer
        return None if state is None else [state] * len(keys)

    async def wait(self, key: RenderKey, seconds: float) -> None:
        assert key.variant is PHOTO
        self.now += seconds
        self.waiting()
        await asyncio.sleep(0)

    def renew(self, keys: Sequence[RenderKey]) -> None:
        self.renewed += keys

    def release(self, key: RenderKey, body: bytes | None) -> None:
        self.released.append(key)
        self.body = body

    def forget(self, media_id: int) -> None:
        self.forgotten.append(media_id)

    async def aclose(self) -> None:
        """Nothing is open."""

    def clock(self) -> float:
        return self.now


def leases(*backends: Scripted) -> RenderLeases:
    return RenderLeases(*backends, heartbeat_timeout_s=1, limit_s=10, clock=backends[0].clock)


def waits(those: RenderLeases) -> dict[str, float]:
    return {name: count for name, count in those.statistics().items() if count}


async def acquired(those: RenderLeases) -> RenderLease:
    return await those.acquire(PHOTO, bool)


async def test_a_free_lease_is_held_at_once_and_released() -> None:
    backend = Scripted(HELD)
    async with aclosing(leases(backend)) as those:
        lease = await acquired(those)
        assert (lease.backend, lease.stored, backend.attempts) == (backend, False, 1)
        those.release(lease, b"rendition")
        assert (backend.released, backend.body) == ([RenderKey(PHOTO)], b"rendition")
        assert those.statistics() == NO_WAITS


async def test_a_process_waits_until_the_other_has_stored_the_rendition() -> None:
    backend = Scripted(TAKEN, TAKEN, STORED)
    async with aclosing(leases(backend)) as those:
        lease = await acquired(those)
        assert (lease.backend, lease.stored) == (backend, True)
        assert waits(those) == {"waits_stored": 1}


async def test_a_rendition_that_was_passed_on_needs_no_lease() -> None:
    backend = Scripted(TAKEN, PASSED_ON)
    async with aclosing(leases(backend)) as those:
        lease = await acquired(those)
        assert (lease.backend, lease.body) == (None, b"rendition")
        those.release(lease)
        assert backend.released == []
        assert waits(those) == {"waits_stored": 1}


async def test_every_backend_hears_of_a_purge() -> None:
    backends = Scripted(HELD), Scripted(HELD)
    async with aclosing(leases(*backends)) as those:
        those.forget(7)
    assert [one.forgotten for one in backends] == [[7], [7]]


async def test_a_process_takes_over_from_one_that_ended_without_a_result() -> None:
    backend = Scripted(TAKEN, HELD)
    async with aclosing(leases(backend)) as those:
        lease = await acquired(those)
        assert (lease.backend, lease.stored) == (backend, False)
        assert waits(those) == {"waits_taken_over": 1}


async def test_a_silent_holder_is_waited_for_briefly() -> None:
    backend = Scripted(TAKEN)
    async with aclosing(leases(backend)) as those:
        lease = await acquired(those)
        assert (lease.backend, lease.stored) == (None, False)
        assert backend.now - 100 == pytest.approx(1, abs=0.1)
        assert waits(those) == {"waits_timeout": 1}


async def test_a_holder_that_sends_heartbeats_is_waited_for_up_to_the_limit() -> None:
    backend = Scripted(TAKEN)
    backend.answers = [lambda: LeaseState(heartbeat=int(backend.now * 2))]
    async with aclosing(leases(backend)) as those:
        lease = await acquired(those)
        assert (lease.backend, lease.stored) == (None, False)
        assert backend.now - 100 == pytest.approx(10, abs=0.1)


async def test_a_render_goes_on_without_leases_if_they_fail() -> None:
    async with aclosing(leases(Scripted(None))) as those:
        lease = await acquired(those)
        assert (lease.backend, lease.stored) == (None, False)
        assert waits(those) == {}
    async with aclosing(leases(Scripted(TAKEN, None))) as those:
        assert (await acquired(those)).backend is None
        assert waits(those) == {"waits_failed": 1}


async def test_the_second_backend_is_used_while_the_first_fails() -> None:
    first, second = Scripted(None), Scripted(HELD)
    async with aclosing(leases(first, second)) as those:
        lease = await acquired(those)
        assert lease.backend is second
        those.release(lease)
        assert (first.released, second.released) == ([], [RenderKey(PHOTO)])


async def test_a_process_does_not_hold_a_lease_twice() -> None:
    backend = Scripted(HELD)
    async with aclosing(leases(backend)) as those:
        first = await those.acquire(PHOTO, lambda: True)

        def finish() -> None:
            if backend.now > 105:
                those.release(first)

        # Longer than for a silent holder: the first render has begun.
        backend.waiting = finish
        assert (await acquired(those)).backend is backend
        assert 105 < backend.now < 106
        (final,) = await those.claim([OTHER])
        assert await those.claim([OTHER]) == []
        those.release(final)


async def test_a_visitor_does_not_wait_for_a_final_in_the_background() -> None:
    backend = Scripted(HELD)
    async with aclosing(leases(backend)) as those:
        await those.claim([PHOTO])
        assert (await acquired(those)).backend is backend
        assert backend.now == 100


async def test_only_what_is_free_is_claimed_and_nothing_is_waited_for() -> None:
    backend = Scripted(TAKEN)
    async with aclosing(leases(backend)) as those:
        assert await those.claim([PHOTO, OTHER]) == []
        assert (backend.attempts, backend.now) == (1, 100)
        backend.answers = [None]
        assert len(await those.claim([PHOTO, OTHER])) == 2, "without leases all is rendered"


async def test_heartbeats_are_sent_while_a_render_runs_but_not_while_it_is_queued() -> None:
    backend = Scripted(HELD)
    async with aclosing(leases(backend)) as those:
        queued, running = await acquired(those), await those.acquire(OTHER, lambda: True)
        await eventually(lambda: len(backend.renewed) >= 2)
        assert set(backend.renewed) == {RenderKey(OTHER)}
        those.release(queued)
        those.release(running)
        await eventually(lambda: those._timer is None)


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    backend = Scripted(TAKEN)
    async with aclosing(RenderLeases(backend, clock=lambda: 0)) as those:
        task = asyncio.create_task(acquired(those))
        await eventually(lambda: backend.attempts > 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.answers = [HELD]
        assert (await acquired(those)).backend is backend


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[tuple[RenderLeases, RenderLeases]]:
    """Return the leases of two processes that share a directory."""
    async with (
        aclosing(RenderLeases(DirectoryLeases(str(tmp_path)))) as here,
        aclosing(RenderLeases(DirectoryLeases(str(tmp_path)))) as there,
    ):
        yield here, there


async def test_processes_that_share_a_directory_exclude_each_other(
    processes: tuple[RenderLeases, RenderLeases], tmp_path: Path
) -> None:
    here, there = processes
    lease = await here.acquire(PHOTO, lambda: True)
    waiting = asyncio.create_task(there.acquire(PHOTO, bool))
    assert len(await here.claim([PHOTO])) == 1
    assert [one.key.variant for one in await there.claim([PHOTO, OTHER])] == [OTHER]
    assert not waiting.done()
    path = Path(RenderLocks(str(tmp_path))._paths.rendition(PHOTO))
    path.parent.mkdir(parents=True)
    path.touch()
    here.release(lease)
    assert (await waiting).stored


async def test_a_process_takes_over_the_lock_of_one_that_closed(tmp_path: Path) -> None:
    here, there = (RenderLeases(DirectoryLeases(str(tmp_path))) for _ in range(2))
    await acquired(here)
    waiting = asyncio.create_task(acquired(there))
    await here.aclose()
    assert (await waiting).backend is not None
    await there.aclose()


class Hanging(RenderLocks):
    """The locks of a disk that hangs until `go` is set."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.go = Event()
        self.calls = 0

    def _open(self) -> int:
        self.calls += 1
        self.go.wait(60)
        return super()._open()


async def test_a_disk_that_hangs_delays_one_render_and_gets_no_lock_late(tmp_path: Path) -> None:
    now = 100.0
    backend = DirectoryLeases(str(tmp_path), clock=lambda: now)
    backend._locks = hanging = Hanging(str(tmp_path))
    async with aclosing(RenderLeases(backend)) as those:
        lease = await acquired(those)
        assert lease.backend is None
        for _ in range(20):
            assert (await acquired(those)).backend is None
        assert hanging.calls == 1, "nothing is requested for five seconds"
        hanging.go.set()
        await eventually(lambda: hanging._file is not None)
        now += 5
        # Its attempt follows the release of what the first one locked late.
        lease = await acquired(those)
        assert lease.backend is backend
        assert not free(tmp_path)
        those.release(lease)
        await eventually(lambda: free(tmp_path))


def free(directory: Path) -> bool:
    """Return whether no process has the lock of the photo."""
    locks = RenderLocks(str(directory))
    try:
        return locks.attempt([RenderKey(PHOTO)])[0].locked
    finally:
        locks.close()


async def test_a_cancelled_attempt_leaves_no_lock(
    processes: tuple[RenderLeases, RenderLeases], tmp_path: Path
) -> None:
    here, _ = processes
    task = asyncio.create_task(acquired(here))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: free(tmp_path))


async def test_a_directory_that_cannot_be_used_makes_everybody_render(tmp_path: Path) -> None:
    async with aclosing(RenderLeases(DirectoryLeases(str(tmp_path / "missing")))) as those:
        assert (await acquired(those)).backend is None
