"""A server without requests leaves the processor alone."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Launch
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_PER_S = 30.0
"""Wake-ups of all threads. Measured: 22, of timers and queries that run once a second."""
_WATCHED_S = 5.0
_WAKE_UPS = re.compile(r"^voluntary_ctxt_switches:\s+(\d+)$", re.MULTILINE)


async def test_an_idle_server_hardly_wakes_up(launch: Launch) -> None:
    server = await launch({"workers": {"count": 1}})
    threads = Path(f"/proc/{server.pid}/task")

    async def wake_ups_per_s() -> float:
        before, began = _wake_ups(threads), time.perf_counter()
        await asyncio.sleep(_WATCHED_S)
        return (_wake_ups(threads) - before) / (time.perf_counter() - began)

    async def idle() -> bool:
        return await wake_ups_per_s() < _PER_S

    # The start may still be under way.
    await eventually(idle, timeout_s=24 * _WATCHED_S)


def _wake_ups(threads: Path) -> int:
    """Return how often the threads of a process have gone to sleep so far."""
    texts = []
    for one in threads.iterdir():
        # A thread may have ended since it was listed.
        with suppress(FileNotFoundError, ProcessLookupError):
            texts.append((one / "status").read_text())
    return sum(int(count) for text in texts for count in _WAKE_UPS.findall(text))
