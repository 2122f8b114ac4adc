"""The crowd: how many are looked at, and who is turned away and who is not while it is dense."""

from __future__ import annotations

import asyncio

import pytest

from proxy.domain.errors import QueueFull
from proxy.rendering.pool.admission import Admission
from proxy.settings import WorkerSettings
from proxy.web.server.load_shedding import LoadShedder
from proxy.web.server.loop_lag import LoopLagMonitor
from tests.support.server import Library, Serve


def a_crowd(*, queue: int) -> tuple[LoadShedder, Admission]:
    admission = Admission(WorkerSettings(count=1, max_queue=queue, retry_after_s=7))
    return LoadShedder(admission, LoopLagMonitor()), admission


def looked_at(crowd: LoadShedder, count: int) -> None:
    for _ in range(count):
        crowd.look().__enter__()


async def test_with_room_at_the_workers_any_number_is_looked_at() -> None:
    crowd, _ = a_crowd(queue=8)
    looked_at(crowd, 500)
    assert not crowd.dense
    assert crowd.turn_away() is None


async def test_without_room_one_is_looked_at_who_may_find_another_size() -> None:
    crowd, admission = a_crowd(queue=0)
    async with admission.enter():
        looked_at(crowd, 1)
        assert crowd.turn_away() is None
        looked_at(crowd, 1)
        error = crowd.turn_away()
    assert isinstance(error, QueueFull)
    assert error.retry_after_s == 7
    assert admission.statistics()["rejected_pressure"] == 1
    assert not crowd.dense, "there is room again"


async def test_while_the_loop_is_late_none_is_looked_at_beyond_the_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LoopLagMonitor, "late_s", 0.1)
    crowd, admission = a_crowd(queue=0)
    async with admission.enter():
        assert not crowd.dense
        looked_at(crowd, 1)
        assert crowd.dense


async def test_a_look_that_waits_for_the_workers_is_over_and_ends_once() -> None:
    crowd, _ = a_crowd(queue=0)
    with crowd.look() as look:
        assert crowd.looks == 1
        look.end()
        assert crowd.looks == 0
    assert crowd.looks == 0


async def test_what_is_stored_is_served_in_a_dense_crowd_and_the_rest_turned_away(
    serve: Serve, library: Library
) -> None:
    server = await serve(workers={"count": 1, "max_queue": 0})
    stored, missing = (f"/serve/{library.ids['photo']}?w={width}" for width in (64, 96))
    unknown = f"/serve/{library.ids['badge']}?w=64"
    etag = (await server.client.get(stored)).headers["ETag"]
    await server.rooms.delivery.drain()
    server.rooms.storage.store.memory.forget(library.ids["photo"])
    async with server.rooms.admission.enter():
        looked_at(server.rooms.crowd, 10)
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
    target = f"/serve/{library.ids['large']}.png?size=zoom"
    first = asyncio.create_task(server.client.get(target))
    async with asyncio.timeout(10):
        while not server.rooms.delivery.statistics()["under_way"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.001)
    looked_at(server.rooms.crowd, 10)
    second = await server.client.get(target)
    assert ((await first).status, second.status) == (200, 200)
    assert server.renders() == 1


async def test_no_look_is_left_when_all_are_answered(serve: Serve, library: Library) -> None:
    server = await serve()
    photo = library.ids["photo"]
    for target in (f"/serve/{photo}?w=64", f"/serve/{photo}?w=64", "/serve/999999", "/serve/x"):
        await (await server.client.get(target)).read()
    assert server.rooms.crowd.looks == 0
