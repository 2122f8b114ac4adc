"""Waiting for a condition, polled every 10 ms; and the pace of slow peers."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

INTERVAL_S = 0.01
TIMEOUT_S = 20.0
"""Much longer than any condition takes on a busy machine."""


def wait_until(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S) -> None:
    """Return when the condition is true; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s:g} s"
        time.sleep(INTERVAL_S)


async def eventually(
    condition: Callable[[], object | Awaitable[object]],
    *,
    timeout_s: float = TIMEOUT_S,
    interval_s: float = INTERVAL_S,
) -> None:
    """Return when the condition is true; other tasks of the event loop run meanwhile.

    For conditions in another process, and for those without an event to wait for.
    """
    deadline = time.monotonic() + timeout_s
    while not await _true(condition):
        assert time.monotonic() < deadline, f"not true within {timeout_s:g} s"
        await asyncio.sleep(interval_s)


async def pause_between_pieces(seconds: float) -> None:
    """Keep the pace of a slow peer: one that sends or reads piece by piece, or says nothing.

    For tests about that pace, and where pieces must arrive separately: nothing reports that the
    other end of a socket has read one. To wait for something to happen, use `eventually`.
    """
    await asyncio.sleep(seconds)


async def _true(condition: Callable[[], object | Awaitable[object]]) -> bool:
    found = condition()
    return bool(await found if inspect.isawaitable(found) else found)
