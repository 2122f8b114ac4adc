"""Request coalescing: concurrent calls share one run of the work, or one batch of look-ups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from proxy.runtime.supervised_task import cancel
from proxy.runtime.thread_pool import ThreadPool

_MAX_BATCHES = 2
"""Concurrent batches, so that one slow directory does not delay all other look-ups."""

K = TypeVar("K")
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


class BatchLoader(Generic[K, T]):
    """Answers many concurrent look-ups with few thread jobs (a DataLoader).

    Calls made while a batch runs are answered by the next one. Each thread hop wakes a thread that
    competes with the event loop for the interpreter. Under overload there would be hundreds of hops
    a second; batches bound their number.
    """

    def __init__(self, threads: ThreadPool, look_up: Callable[[K], T]) -> None:
        """``look_up`` blocks and runs in one of ``threads``; an OSError fails its key only."""
        self._threads = threads
        self._look_up = look_up
        self._slots = asyncio.Semaphore(_MAX_BATCHES)
        self._next: tuple[set[K], asyncio.Task[Mapping[K, T | OSError]]] | None = None
        """The keys and the task of the batch that has not begun."""

    async def load(self, key: K) -> T:
        """Return the value of one key.

        Raises:
            OSError: the look-up raised it for this key, or did not finish in time.
        """
        if self._next is None:
            collected: set[K] = set()
            self._next = collected, asyncio.create_task(self._run(collected))
        keys, batch = self._next
        keys.add(key)
        # The limit includes the wait for a slot. The shield: a cancelled caller leaves the batch
        # to the others.
        async with asyncio.timeout(self._threads.timeout_s):
            found = (await asyncio.shield(batch))[key]
        if isinstance(found, OSError):
            raise found
        return found

    async def _run(self, keys: set[K]) -> Mapping[K, T | OSError]:
        async with self._slots:
            # Later calls belong to the next batch.
            self._next = None
            try:
                return await self._threads.run(partial(self._look_up_all, keys))
            except OSError as error:
                # The pool is closed or hangs. Returned, because every caller may be gone.
                return dict.fromkeys(keys, error)

    def _look_up_all(self, keys: Collection[K]) -> Mapping[K, T | OSError]:
        return {key: self._look_up_one(key) for key in keys}

    def _look_up_one(self, key: K) -> T | OSError:
        try:
            return self._look_up(key)
        except OSError as error:
            return error
