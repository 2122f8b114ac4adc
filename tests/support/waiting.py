"""Waiting for a condition: polled every 10 ms, never for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

INTERVAL_S = 0.01
TIMEOUT_S = 20.0
"""Much longer than any condition takes on a busy machine."""


def wait_until(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S) -> None:
    """Return when the condition is true; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s:g} s"
        time.sleep(INTERVAL_S)


async def eventually(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S) -> None:
    """Return when the condition is true; other tasks of the event loop run meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s:g} s"
        await asyncio.sleep(INTERVAL_S)
