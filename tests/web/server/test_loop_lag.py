"""The pulse tells how late the loop is, while it is late and after it."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.web.server.loop_lag import LoopLagMonitor
from tests.support.server import Library, Serve


async def test_a_loop_that_is_held_up_is_late_at_once() -> None:
    pulse = LoopLagMonitor()
    async with pulse.beating():
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - that is what holds a loop up
        assert pulse.late_s > 0.05, "before the beat that is overdue"


async def test_a_beat_that_came_late_is_remembered_until_the_next() -> None:
    pulse = LoopLagMonitor()
    async with pulse.beating():
        asyncio.get_running_loop().call_soon(time.sleep, 0.1)
        await asyncio.sleep(0.001)
        assert pulse.late_s > 0.05
        async with asyncio.timeout(10):
            while pulse.late_s > 0.05:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)


async def test_at_rest_nothing_is_late() -> None:
    pulse = LoopLagMonitor()
    time.sleep(0.05)  # noqa: ASYNC251 - as above
    assert pulse.late_s == 0
    async with pulse.beating():
        pass
    assert pulse.late_s == 0


@pytest.mark.parametrize(("full", "late_s"), [(True, 0.1), (True, 0.0), (False, 0.1)])
async def test_a_late_server_with_a_full_queue_turns_misses_away_and_serves_hits(
    serve: Serve, library: Library, monkeypatch: pytest.MonkeyPatch, *, full: bool, late_s: float
) -> None:
    server = await serve(workers={"count": 1, "max_queue": 0})
    there, missing = (f"/serve/{library.ids['photo']}?w={width}" for width in (64, 96))
    await (await server.client.get(there)).read()
    monkeypatch.setattr(LoopLagMonitor, "late_s", property(lambda _: late_s))
    async with server.rooms.admission.enter() if full else asyncio.timeout(None):
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
