"""Request coalescing: concurrent calls share one run of the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from proxy.runtime.supervised_task import cancel

T = TypeVar("T")


class SharedResults(Generic[T]):
    """Computes a result once for all concurrent calls with the same key."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[T]] = {}

    async def result(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of the running work, or start it; an error reaches all callers."""
        task = self._running.get(key)
        # A task stays in the table until its callback runs. What it found may be outdated by then.
        if task is None or task.done():
            task = self._running[key] = asyncio.create_task(work())
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    def _forget(self, key: str, task: asyncio.Task[T]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        # All callers may have been cancelled: mark the error as retrieved, or asyncio logs it.
        if not task.cancelled():
            task.exception()

    async def aclose(self) -> None:
        """Cancel all running work and wait until it has ended."""
        await cancel(*self._running.values())
