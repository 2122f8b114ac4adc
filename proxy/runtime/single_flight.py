"""Request coalescing: concurrent calls for one key share one run of the work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Tracks the running work by key.

    The work runs in a task of its own, so the cancellation of a caller, even of the first one, does
    not affect the others.
    """

    def __init__(self) -> None:
        self._running: dict[str, T] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._led = 0
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
        self._led += 1
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
        """Return the running work, and the work started and joined since the start."""
        return {"under_way": len(self._running), "led": self._led, "joined": self._joined}


class SharedResults(Generic[T]):
    """Computes a result once for all concurrent calls with the same key."""

    def __init__(self) -> None:
        self._flight: SingleFlight[asyncio.Future[T]] = SingleFlight()

    async def result(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of the running work, or start it; an error reaches all callers."""
        result, _ = self._flight.join(key, lambda: self._launch(work))
        return await asyncio.shield(result)

    def _launch(
        self, work: Callable[[], Awaitable[T]]
    ) -> tuple[asyncio.Future[T], Coroutine[Any, Any, None]]:
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # All callers may have been cancelled: mark the error as retrieved, or asyncio logs it.
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        return result, self._settle(work, result)

    async def _settle(self, work: Callable[[], Awaitable[T]], result: asyncio.Future[T]) -> None:
        try:
            found = await work()
        except asyncio.CancelledError:
            result.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - raised in all callers
            result.set_exception(error)
        else:
            result.set_result(found)

    async def aclose(self) -> None:
        """Cancel all running work."""
        await self._flight.aclose()
