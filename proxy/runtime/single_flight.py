"""Request coalescing: concurrent calls for one key share one run of the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from proxy.runtime.supervised_task import cancel

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Tracks the running work by key.

    The work runs in a task of its own, so the cancellation of a caller, even of the first one, does
    not affect the others.
    """

    def __init__(self) -> None:
        self._running: dict[str, T] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._joined = 0

    def __contains__(self, key: str) -> bool:
        """Return whether work for a key is running."""
        return key in self._running

    def join(
        self, key: str, launch: Callable[[], tuple[T, Coroutine[Any, Any, None]]]
    ) -> tuple[T, bool]:
        """Return the shared value of the running work, and whether this call started it.

        ``launch`` returns the value and the coroutine that does the work. The coroutine must handle
        its own errors: nothing awaits it.
        """
        if key in self._running:
            self._joined += 1
            return self._running[key], False
        value, work = launch()
        self._running[key] = value
        task = asyncio.create_task(self._run(key, value, work))
        # asyncio itself keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return value, True

    async def _run(self, key: str, value: T, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self.release(key, value)

    def release(self, key: str, value: T) -> None:
        """Make the next call start new work, although this one has not ended yet."""
        # After an earlier release the key may belong to newer work.
        if self._running.get(key) is value:
            del self._running[key]

    async def drain(self) -> None:
        """Wait until all work that runs now has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Cancel all running work and wait until it has ended."""
        # A task cancelled before its first step never runs, and its value would stay unresolved.
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await self.drain()

    def statistics(self) -> Mapping[str, float]:
        """Return the running work, and the calls that joined work since the start."""
        return {"under_way": len(self._running), "joined": self._joined}


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
