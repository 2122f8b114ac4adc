"""Aside: blocking work in a thread of its own, which holds up nothing but who waits for it.

`asyncio.to_thread` takes one of a few threads that all of a process share, name look-ups among it.
A call that hangs in a dead file system would keep it, and would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


async def aside(
    work: Callable[[], _T],
    *,
    release: Callable[[_T], object] | None = None,
    abandon: Callable[[], object] = lambda: None,
) -> _T:
    """What some blocking work gives; how much goes on at once is for the caller to bound.

    Cancelled, it goes on waiting until the work has ended, which uses what the caller would put
    away: ``abandon`` tells the work to stop where it can, ``release`` takes the result. Only
    cancelled once more does it leave it behind.
    """
    job: Future[_T] = Future()
    job.set_running_or_notify_cancel()
    threading.Thread(target=_do, args=(job, work), name="aside", daemon=True).start()
    working = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        abandon()
        await asyncio.wait([working])
        if working.exception() is None and release is not None:
            release(working.result())
        raise


def _do(job: Future[_T], work: Callable[[], _T]) -> None:
    try:
        job.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised where the work is waited for
        job.set_exception(error)
