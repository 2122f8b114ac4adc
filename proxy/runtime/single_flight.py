"""Single flight: one piece of work for each key, shared by all who come while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Keeps the work under way by key.

    The work belongs to the flight, not to the request that began it: a request that leaves, the
    first one too, cancels nothing for the others.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, T] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._led = 0
        self._joined = 0

    def __contains__(self, key: str) -> bool:
        """Whether work for a key is under way, to be joined."""
        return key in self._under_way

    def join(
        self, key: str, launch: Callable[[], tuple[T, Coroutine[Any, Any, None]]]
    ) -> tuple[T, bool]:
        """Give what stands for the work under way, and whether this call began it.

        ``launch`` makes that value and the coroutine which settles it; the coroutine handles its
        own errors, as there is nobody else to tell.
        """
        if key in self._under_way:
            self._joined += 1
            return self._under_way[key], False
        value, work = launch()
        self._led += 1
        self._under_way[key] = value
        task = asyncio.create_task(self._run(key, value, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return value, True

    async def _run(self, key: str, value: T, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self.release(key, value)

    def release(self, key: str, value: T) -> None:
        """Let whoever comes next begin anew, although this work has yet to clean up behind it."""
        if self._under_way.get(key) is value:
            del self._under_way[key]

    async def drain(self) -> None:
        """Return when all work under way at this moment has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Cancel all work under way and wait until it has ended."""
        # A task that is cancelled before its first step never runs, and so settles nothing.
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await self.drain()

    def statistics(self) -> Mapping[str, float]:
        """Work under way, begun and joined since the start."""
        return {"under_way": len(self._under_way), "led": self._led, "joined": self._joined}


class SharedResults(Generic[T]):
    """Results that are worked out once for all who ask for one meanwhile."""

    def __init__(self) -> None:
        self._flight: SingleFlight[asyncio.Future[T]] = SingleFlight()

    async def result(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result for a key, of the work under way or of this; its error reaches all."""
        result, _ = self._flight.join(key, lambda: self._launch(work))
        return await asyncio.shield(result)

    def _launch(
        self, work: Callable[[], Awaitable[T]]
    ) -> tuple[asyncio.Future[T], Coroutine[Any, Any, None]]:
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Every waiter may have left by the time it fails, and nobody ask what became of it.
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        return result, self._settle(work, result)

    async def _settle(self, work: Callable[[], Awaitable[T]], result: asyncio.Future[T]) -> None:
        try:
            found = await work()
        except asyncio.CancelledError:
            result.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            result.set_exception(error)
        else:
            result.set_result(found)

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self._flight.aclose()
