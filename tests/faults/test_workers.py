"""Row 5: workers that crash, hang or eat memory cost one job, and nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.faults.conftest import Launch
from tests.faults.table import Figure, Record
from tests.serving import Library


@pytest.mark.drill
async def test_workers_killed_at_random_lose_no_answer(
    launch: Launch, library: Library, record: Record
) -> None:
    """Each answer is right although workers die under it: a job is tried once more."""
    server = await launch({"renditions": {"memory_max_bytes": 0}})
    targets = [f"/serve/{library.ids['photo']}?w={width}&format=webp" for width in (64, 96, 128)]
    kills = lost = answers = 0
    async with server.client() as client:
        bodies = {}
        for target in targets:
            async with client.get(target) as answer:
                bodies[target] = await answer.read()
        for turn in range(30):
            victim = server.workers()[turn % 2]
            asked = [asyncio.create_task(client.get(target + f"&v={turn}")) for target in targets]
            await asyncio.sleep(0.005 * (turn % 4))
            os.kill(victim, signal.SIGKILL)
            kills += 1
            for task, target in zip(asked, targets, strict=True):
                answer = await task
                answers += 1
                lost += await answer.read() != bodies[target]
            await server.until_workers(2)
    assert lost == 0
    record(
        Figure(5, "a worker killed while pictures are asked for", kills, lost, f"{answers} answers")
    )
