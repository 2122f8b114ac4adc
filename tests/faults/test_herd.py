"""Row 20: concurrent equal misses share one render, whatever happens to its first client."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Launch
from tests.faults.herd import HERD, ClientGroup, ClientResponse, Connected, gathered, response
from tests.faults.server import Sections, Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_ONE_WORKER = {"workers": {"count": 1}}
_DRAFTS = {"workers": {"count": 1}, "upgrades": {"enabled": True, "budget_s": 0}}


Harm = Callable[[ClientGroup], Awaitable[list[Connected]]]
"""Sends requests, disturbs a client or the render, and returns the connections that wait."""


async def _answers(server: Server, target: str, harm: Harm) -> set[ClientResponse]:
    """Return all different responses of the clients, but for the header that numbers each."""
    async with gathered(server, target, HERD) as herd:
        waiting = await harm(herd)
        async with asyncio.timeout(60):
            return set(await asyncio.gather(*(response(reader) for reader, _ in waiting)))


async def unharmed(herd: ClientGroup) -> list[Connected]:
    return herd.send()


async def worker_killed(herd: ClientGroup) -> list[Connected]:
    asking = herd.send()
    os.kill(await herd.at_work(), signal.SIGKILL)
    return asking


async def leader_gone(herd: ClientGroup) -> list[Connected]:
    """The first client disconnects when all others wait for the render that it started."""
    (leader,) = herd.send(1)
    await herd.at_work()
    asking = herd.send()
    leader[1].transport.abort()
    return asking


async def leader_gone_in_its_answer(herd: ClientGroup) -> list[Connected]:
    (leader,) = herd.send(1)
    asking = herd.send()
    await leader[0].readexactly(100)
    leader[1].transport.abort()
    return asking


HARMS: tuple[tuple[Harm, str], ...] = (
    # First, while there is only one worker: drafts start another.
    (worker_killed, "w=1080&format=avif"),
    (unharmed, "w=1080&format=webp"),
    (leader_gone, "w=1920&format=avif"),
    (leader_gone_in_its_answer, "w=1920&format=jpeg"),
)


@pytest.mark.drill
@pytest.mark.parametrize("sections", [_ONE_WORKER, _DRAFTS], ids=["final", "draft"])
async def test_concurrent_equal_misses_are_answered_by_one_render(
    launch: Launch, library: Library, record: Record, tmp_path: Path, sections: Sections
) -> None:
    """About 8 s each, in one stage and with drafts; only the first client notices its own fault."""
    targets = [f"/serve/{library.ids['large']}?{form}" for _, form in HARMS]
    first = await launch(sections, data_dir=library.copy(tmp_path / "first"))
    references = [await _alone(first, target) for target in targets]
    await first.stop()
    server = await launch(sections)
    for number, ((harm, _), target) in enumerate(zip(HARMS, targets, strict=True), 1):
        answers = await _answers(server, target, harm)
        assert answers == {references[number - 1]}, harm.__name__
        renders = await server.metric("smartserve_render_seconds_count")
        assert renders == number, harm.__name__
    assert await server.metric("smartserve_worker_restarts_total", reason="crash") == 1
    assert await server.metric("smartserve_coalesced_total") > HERD
    stage = "final" if sections is _ONE_WORKER else "draft"
    names = ", ".join(harm.__name__ for harm, _ in HARMS)
    record(Figure(20, f"{stage}: {names}"[:70], HERD * len(HARMS), 0, "one render each"))


async def _alone(server: Server, target: str) -> ClientResponse:
    async with gathered(server, target, 1) as herd:
        ((reader, _),) = herd.send(1)
        return await response(reader)


async def killed_twice(herd: ClientGroup) -> list[Connected]:
    """Kill the second worker of a render too."""
    asking = herd.send()
    first = await herd.at_work()
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: herd.server.workers()[:1] not in ([], [first]), timeout_s=10)
    os.kill(await herd.at_work(), signal.SIGKILL)
    return asking


async def test_concurrent_misses_of_a_crashing_image_cost_two_workers(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch(_ONE_WORKER)
    target = f"/serve/{library.ids['large']}?w=1920&format=avif"
    answers = await _answers(server, target, killed_twice)
    assert {answer.status for answer in answers} == {422}
    assert len(answers) == 1
    assert await server.metric("smartserve_worker_restarts_total", reason="crash") == 2
    assert await server.metric("smartserve_jobs_total") == 1
    record(Figure(20, "a render that kills both its workers", HERD, 0, "the same response to all"))


@pytest.mark.drill
async def test_concurrent_misses_of_a_corrupt_image_are_refused_after_one_attempt(
    launch: Launch, library: Library, data_dir: Path, record: Record
) -> None:
    """Requests after the failure are answered from the failure cache."""
    for path in (data_dir / "originals").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:200] + bytes(path.stat().st_size - 200))
    server = await launch(_ONE_WORKER)
    target = f"/serve/{library.ids['photo']}?w=64&format=png"
    answers = await _answers(server, target, unharmed)
    assert {answer.status for answer in answers} == {422}
    assert len(answers) == 1
    assert await server.metric("smartserve_jobs_total") == 1
    record(Figure(20, "a corrupt picture", HERD, 0, "one attempt, the same response to all"))
