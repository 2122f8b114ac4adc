"""Threads of a room's own, with a deadline, and with care for results that come too late."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

_CLOSE_S = 5.0

_T = TypeVar("_T")


class ThreadPool:
    """Runs blocking file work off the loop."""

    def __init__(self, name: str, *, count: int, timeout_s: float | None) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self.timeout_s = timeout_s
        self._closed = False

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Start work that nobody need wait for; an OSError after `aclose`."""
        if self._closed:
            raise OSError(errno.ESHUTDOWN, "the rendition store is closed")
        return self._executor.submit(work)

    async def run(
        self,
        work: Callable[[], _T],
        *,
        release: Callable[[_T], object] | None = None,
    ) -> _T:
        """Run work in a thread; one hop there and back.

        After a time-out or a cancellation work that had not begun is dropped, and work that had is
        left to end by itself: then its result goes to ``release``.

        Raises:
            TimeoutError: the work did not end in time (it is an OSError, like all that files raise)
        """
        job = self.submit(work)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asyncio.wrap_future(job)
        except (asyncio.CancelledError, TimeoutError):
            if release is not None:
                job.add_done_callback(partial(_release, release))
            raise

    async def finish(self, work: Callable[[], _T]) -> _T:
        """As `run`, for work that must be done even if nobody waits for its end."""
        job = self.submit(work)
        async with asyncio.timeout(self.timeout_s):
            return await asyncio.shield(asyncio.wrap_future(job))

    async def aclose(self) -> None:
        """Take no more work and wait some seconds for what is under way."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.to_thread(self._executor.shutdown)


def _release(release: Callable[[_T], object], job: Future[_T]) -> None:
    if not job.cancelled() and job.exception() is None:
        release(job.result())
