"""Batches blocking look-ups: calls made while a batch runs are answered by the next one.

Each thread hop wakes a thread that competes with the event loop for the interpreter. Under
overload there would be hundreds of hops a second; batches bound their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Generic, TypeVar

from proxy.runtime.thread_pool import ThreadPool

_MAX_BATCHES = 2
"""Concurrent batches, so that one slow directory does not delay all other look-ups."""

K = TypeVar("K")
V = TypeVar("V")


class BatchLoader(Generic[K, V]):
    """Answers many concurrent look-ups with few thread jobs (a DataLoader)."""

    def __init__(self, threads: ThreadPool, look_up: Callable[[K], V]) -> None:
        """``look_up`` blocks and runs in one of ``threads``; an OSError fails its key only."""
        self._threads = threads
        self._look_up = look_up
        self._slots = asyncio.Semaphore(_MAX_BATCHES)
        self._next: tuple[set[K], asyncio.Task[Mapping[K, V | OSError]]] | None = None
        """The keys and the task of the batch that has not begun."""

    async def load(self, key: K) -> V:
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

    async def _run(self, keys: set[K]) -> Mapping[K, V | OSError]:
        async with self._slots:
            # Later calls belong to the next batch.
            self._next = None
            try:
                return await self._threads.run(partial(self._look_up_all, keys))
            except OSError as error:
                # The pool is closed or hangs. Returned, because every caller may be gone.
                return dict.fromkeys(keys, error)

    def _look_up_all(self, keys: Collection[K]) -> Mapping[K, V | OSError]:
        return {key: self._look_up_one(key) for key in keys}

    def _look_up_one(self, key: K) -> V | OSError:
        try:
            return self._look_up(key)
        except OSError as error:
            return error
