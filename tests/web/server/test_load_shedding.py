"""Load shedding: how lag is measured, and which requests are rejected under overload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from proxy.domain.errors import Overloaded
from proxy.rendering.pool.admission import Admission
from proxy.settings import WorkerSettings
from proxy.web.server.load_shedding import LoadShedder, SheddingTicket
from tests.support.server import Library, Serve
from tests.support.waiting import eventually


class Loop:
    """A loop whose timers fire when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, due: float, callback: Callable[[], None]) -> SimpleNamespace:
        self.timers.append((due, callback))
        return SimpleNamespace(cancel=self.timers.clear)

    def delays(self) -> list[float]:
        """Return the seconds until each timer fires."""
        return [due - self.now for due, _ in self.timers]

    def fire(self, *, late_s: float = 0.0) -> None:
        due, callback = self.timers.pop()
        self.now = due + late_s
        callback()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(
        "proxy.web.server.load_shedding.asyncio",
        SimpleNamespace(get_running_loop=lambda: loop),
    )
    return loop


async def test_a_loop_that_is_blocked_is_late_before_the_overdue_timer_fires(loop: Loop) -> None:
    crowd, _ = a_crowd(queue=0)
    async with crowd.measuring_lag():
        assert crowd.late_s <= 0
        loop.now += 1.1
        assert crowd.late_s == pytest.approx(0.1)


async def test_the_lag_of_a_timer_counts_until_the_next_fires(loop: Loop) -> None:
    crowd, _ = a_crowd(queue=0)
    async with crowd.measuring_lag():
        loop.fire(late_s=0.1)
        assert crowd.late_s == pytest.approx(0.1)
        loop.fire()
        assert crowd.late_s == 0


async def test_no_lag_is_measured_outside_the_block(loop: Loop) -> None:
    crowd, _ = a_crowd(queue=0)
    loop.now += 1
    assert crowd.late_s == 0
    async with crowd.measuring_lag():
        pass
    assert crowd.late_s == 0
    assert loop.timers == []


async def test_the_timer_fires_every_50_ms_while_a_request_is_resolved_else_every_second(
    loop: Loop,
) -> None:
    crowd, _ = a_crowd(queue=0)
    async with crowd.measuring_lag():
        assert loop.delays() == [1.0]
        loop.fire(late_s=0.1)
        with resolving(crowd), resolving(crowd):
            assert loop.delays() == [pytest.approx(0.05)]
            assert crowd.late_s <= 0, "the load begins now"
            loop.fire()
            assert loop.delays() == [pytest.approx(0.05)]
        loop.fire()
        assert loop.delays() == [1.0]


async def test_the_lag_of_an_overdue_timer_counts_for_the_request_that_replaces_it(
    loop: Loop,
) -> None:
    crowd, _ = a_crowd(queue=0)
    async with crowd.measuring_lag():
        loop.now += 1.3
        with resolving(crowd):
            assert crowd.late_s == pytest.approx(0.3)


async def test_a_lag_is_reported_at_most_every_half_second(loop: Loop) -> None:
    reported: list[float] = []
    crowd, _ = a_crowd(queue=0, report=reported.append)
    async with crowd.measuring_lag():
        loop.fire(late_s=0.1)
        assert reported == [pytest.approx(0.1)]
        with resolving(crowd):
            for _ in range(9):
                loop.fire()
            assert reported == [pytest.approx(0.1)]
            loop.fire(late_s=0.2)
    assert reported == [pytest.approx(0.1), pytest.approx(0.2)]


def a_crowd(
    *, queue: int, report: Callable[[float], None] = lambda _: None
) -> tuple[LoadShedder, Admission]:
    admission = Admission(WorkerSettings(count=1, max_queue=queue, retry_after_s=7))
    return LoadShedder(admission, report), admission


@contextmanager
def resolving(crowd: LoadShedder) -> Iterator[SheddingTicket]:
    """Count a request as being resolved for the block."""
    ticket = crowd.ticket()
    try:
        yield ticket
    finally:
        ticket.release()


def looked_at(crowd: LoadShedder, count: int) -> None:
    for _ in range(count):
        crowd.ticket()


async def test_with_room_at_the_workers_any_number_is_looked_at() -> None:
    crowd, _ = a_crowd(queue=8)
    looked_at(crowd, 500)
    assert not crowd.overloaded
    crowd.check()


async def test_without_room_one_is_looked_at_who_may_find_another_size() -> None:
    crowd, admission = a_crowd(queue=0)
    async with admission.enter():
        looked_at(crowd, 1)
        crowd.check()
        looked_at(crowd, 1)
        with pytest.raises(Overloaded) as error:
            crowd.check()
    assert error.value.retry_after_s == 7
    assert admission.statistics()["rejected_pressure"] == 1
    assert not crowd.overloaded, "there is room again"


async def test_while_the_loop_is_late_none_is_looked_at_beyond_the_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LoadShedder, "late_s", 0.1)
    crowd, admission = a_crowd(queue=0)
    async with admission.enter():
        assert not crowd.overloaded
        looked_at(crowd, 1)
        assert crowd.overloaded


async def test_a_look_that_waits_for_the_workers_is_over_and_ends_once() -> None:
    crowd, _ = a_crowd(queue=0)
    with resolving(crowd) as ticket:
        assert crowd.resolving == 1
        ticket.release()
        assert crowd.resolving == 0
    assert crowd.resolving == 0


async def test_what_is_stored_is_served_in_a_dense_crowd_and_the_rest_turned_away(
    serve: Serve, library: Library
) -> None:
    server = await serve(workers={"count": 1, "max_queue": 0})
    stored, missing = (f"/serve/{library.ids['photo']}?w={width}" for width in (64, 96))
    unknown = f"/serve/{library.ids['badge']}?w=64"
    etag = (await server.client.get(stored)).headers["ETag"]
    await server.services.serving.renderer.drain()
    server.services.storage.renditions.memory.purge(library.ids["photo"])
    async with server.services.rendering.admission.enter():
        looked_at(server.services.serving.load_shedder, 10)
        answer = await server.client.get(stored)
        assert (answer.status, answer.headers["Cache-Status"]) == (
            200,
            "smartserve; hit; detail=disk",
        )
        had = await server.client.get(stored, headers={"if-none-match": etag, "Range": "x"})
        assert had.status == 304
        for target in (missing, unknown):
            refused = await server.client.get(target)
            assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
    assert server.metric("smartserve_rejections_total", reason="pressure") == 2
    assert (await server.client.get(missing)).status == 200, "there is room again"


async def test_who_asks_for_what_is_being_made_waits_for_it(serve: Serve, library: Library) -> None:
    server = await serve(workers={"count": 1, "max_queue": 0})
    target = f"/serve/{library.ids['large']}.png?w=640"
    first = asyncio.create_task(server.client.get(target))
    await eventually(lambda: server.services.serving.renderer.statistics()["under_way"])
    looked_at(server.services.serving.load_shedder, 10)
    second = await server.client.get(target)
    assert ((await first).status, second.status) == (200, 200)
    assert server.renders() == 1


async def test_no_look_is_left_when_all_are_answered(serve: Serve, library: Library) -> None:
    server = await serve()
    photo = library.ids["photo"]
    for target in (f"/serve/{photo}?w=64", f"/serve/{photo}?w=64", "/serve/999999", "/serve/x"):
        await (await server.client.get(target)).read()
    assert server.services.serving.load_shedder.resolving == 0


@pytest.mark.parametrize(("full", "late_s"), [(True, 0.1), (True, 0.0), (False, 0.1)])
async def test_a_late_server_with_a_full_queue_turns_misses_away_and_serves_hits(
    serve: Serve, library: Library, monkeypatch: pytest.MonkeyPatch, *, full: bool, late_s: float
) -> None:
    server = await serve(workers={"count": 1, "max_queue": 0})
    there, missing = (f"/serve/{library.ids['photo']}?w={width}" for width in (64, 96))
    await (await server.client.get(there)).read()
    monkeypatch.setattr(LoadShedder, "late_s", property(lambda _: late_s))
    async with server.services.rendering.admission.enter() if full else asyncio.timeout(None):
        assert (await server.client.get(there)).status == 200
        answer = await server.client.get(missing)
        stands_in = "fallback" in answer.headers["Cache-Status"] if answer.status == 200 else None
        assert (answer.status, stands_in) == _EXPECTED[full, late_s]
        if answer.status == 503:
            assert "Retry-After" in answer.headers
    turned_away = server.metric("smartserve_rejections_total", reason="pressure")
    assert turned_away == (full and late_s > 0)


_EXPECTED = {
    (True, 0.1): (503, None),
    (True, 0.0): (200, True),
    (False, 0.1): (200, False),
}
"""By whether the queue is full and how late the loop is: status, and whether another size came."""


async def test_without_room_a_render_can_be_joined_and_none_started() -> None:
    crowd, admission = a_crowd(queue=0)
    async with admission.enter():
        looked_at(crowd, 2)
        with resolving(crowd) as ticket, pytest.raises(Overloaded):
            ticket.wait_for_render(new=True)
        with resolving(crowd) as ticket:
            assert ticket.overloaded
            ticket.wait_for_render(new=False)
            assert crowd.resolving == 2
