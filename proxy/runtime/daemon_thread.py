"""Runs blocking work in a thread of its own; a cancellation waits for its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from proxy.runtime.thread_pool import complete

_T = TypeVar("_T")


async def in_daemon_thread(
    work: Callable[[], _T],
    *,
    release: Callable[[_T], object] | None = None,
    abandon: Callable[[], object] = lambda: None,
) -> _T:
    """Run blocking work in a new daemon thread and return its result.

    In contrast to `ThreadPool.run`, a cancellation waits for the end of the work, which may use
    what the caller is about to close: ``abandon`` is called to make the work end early, and
    ``release`` receives its result. A second cancellation does not wait. The caller limits how
    many such threads exist.
    """
    job: Future[_T] = Future()
    # From here on the future counts as running, so nothing can cancel it.
    job.set_running_or_notify_cancel()
    threading.Thread(target=complete, args=(job, work), name="in-thread", daemon=True).start()
    working = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        abandon()
        # `asyncio.wait` does not cancel what it waits for; a second cancellation ends only the
        # wait.
        await asyncio.wait([working])
        if working.exception() is None and release is not None:
            release(working.result())
        raise
