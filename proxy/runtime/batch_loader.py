"""Batches blocking look-ups: calls made while a batch runs are answered by the next one.

Each thread hop wakes a thread that competes with the event loop for the interpreter. Under
overload there would be hundreds of hops a second; batches bound their number.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
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
        self._queued: deque[tuple[K, asyncio.Future[V]]] = deque()
        self._batches = 0
        self._scheduled = False

    async def load(self, key: K) -> V:
        """Return the value of one key.

        Raises:
            OSError: the look-up raised it for this key, or did not finish in time.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[V] = loop.create_future()
        self._drop_cancelled()
        self._queued.append((key, result))
        if not self._scheduled and self._batches < _MAX_BATCHES:
            # Not at once: calls in the same iteration of the event loop join this batch.
            self._scheduled = True
            loop.call_soon(self._start_batch)
        async with asyncio.timeout(self._threads.timeout_s):
            return await result

    def _drop_cancelled(self) -> None:
        """Remove cancelled look-ups, so they do not pile up while the file system hangs."""
        while self._queued and self._queued[0][1].done():
            self._queued.popleft()

    def _start_batch(self) -> None:
        self._scheduled = False
        batch = [(key, result) for key, result in self._queued if not result.done()]
        self._queued.clear()
        if not batch:
            return
        try:
            job = self._threads.submit(partial(self._load_all, [key for key, _ in batch]))
        except OSError as error:
            # The pool is closed.
            for _, result in batch:
                result.set_exception(error)
            return
        self._batches += 1
        loop = asyncio.get_running_loop()
        # The callback runs in the thread of the pool, or here if the batch has ended already.
        job.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, batch, done))

    def _load_all(self, keys: Sequence[K]) -> list[V | OSError]:
        return [self._load_one(key) for key in keys]

    def _load_one(self, key: K) -> V | OSError:
        try:
            return self._look_up(key)
        except OSError as error:
            return error

    def _finish(
        self, batch: Sequence[tuple[K, asyncio.Future[V]]], done: Future[list[V | OSError]]
    ) -> None:
        self._batches -= 1
        for (_, result), found in zip(batch, done.result(), strict=True):
            # The caller was cancelled, or did not wait any longer.
            if result.done():
                continue
            if isinstance(found, OSError):
                result.set_exception(found)
            else:
                result.set_result(found)
        # For the calls that came while this batch ran.
        self._start_batch()
