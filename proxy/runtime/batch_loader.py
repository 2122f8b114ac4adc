"""Together: a blocking question that many ask at once, answered for all of them in one thread hop.

A hop wakes a thread that wants the interpreter while the loop has it. That is dear, and under
overload there would be hundreds a second of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from proxy.runtime.thread_pool import ThreadPool

_HOPS = 2
"""At once, so that one slow directory does not hold up all the others."""

K = TypeVar("K")
V = TypeVar("V")


class BatchLoader(Generic[K, V]):
    """Asks a question of many keys; who comes while all hops are under way shares the next."""

    def __init__(self, threads: ThreadPool, question: Callable[[K], V]) -> None:
        """``question`` blocks, and is asked in one of ``threads``."""
        self._threads = threads
        self._question = question
        self._asked: deque[tuple[K, asyncio.Future[V]]] = deque()
        self._hops = 0
        self._due = False

    @property
    def waiting(self) -> int:
        """How many wait for a hop, those included who gave up and are not forgotten yet."""
        return len(self._asked)

    async def ask(self, key: K) -> V:
        """The answer for one key.

        Raises:
            OSError: the question raised it for this key, or was not answered in time.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[V] = loop.create_future()
        self._drop_who_left()
        self._asked.append((key, answer))
        if not self._due and self._hops < _HOPS:
            # Not at once: whoever asks in the same turn of the loop is to come along.
            self._due = True
            loop.call_soon(self._go, loop)
        async with asyncio.timeout(self._threads.timeout_s):
            return await answer

    def _drop_who_left(self) -> None:
        """So that they do not pile up while all hops hang in a dead file system."""
        while self._asked and self._asked[0][1].done():
            self._asked.popleft()

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = False
        asked = [(key, answer) for key, answer in self._asked if not answer.done()]
        self._asked.clear()
        if not asked:
            return
        try:
            job = self._threads.submit(partial(self._answers, [key for key, _ in asked]))
        except OSError as error:
            for _, answer in asked:
                answer.set_exception(error)
            return
        self._hops += 1
        job.add_done_callback(lambda done: loop.call_soon_threadsafe(self._back, asked, done, loop))

    def _answers(self, keys: Sequence[K]) -> list[V | OSError]:
        return [self._answer(key) for key in keys]

    def _answer(self, key: K) -> V | OSError:
        try:
            return self._question(key)
        except OSError as error:
            return error

    def _back(
        self,
        asked: Sequence[tuple[K, asyncio.Future[V]]],
        done: Future[list[V | OSError]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Hand out what a hop has brought; who has left gets nothing."""
        self._hops -= 1
        for (_, answer), found in zip(asked, done.result(), strict=True):
            if answer.done():
                continue
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)
        self._go(loop)
