"""Request coalescing: concurrent calls for one key share one run of the work and its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
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


class ByteStream:
    """Passes the bytes of one render to all requests that wait for it.

    One owner feeds and ends the stream. Readers may start at any time, even after the end, and get
    all bytes from the beginning. Readers do not affect each other.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._length = 0
        self._joined: bytes | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()

    @property
    def length(self) -> int:
        """Return the number of bytes so far; the total once `complete`."""
        return self._length

    @property
    def complete(self) -> bool:
        """Return whether the stream ended without an error."""
        return self._finished.is_set() and self._error is None

    def feed(self, chunk: bytes) -> None:
        """Append bytes and wake all readers."""
        self._chunks.append(chunk)
        self._length += len(chunk)
        self._wake()

    def finish(self) -> None:
        """End the stream: all bytes were fed."""
        self._finished.set()
        self._wake()

    def fail(self, error: Exception) -> None:
        """End the stream: readers get the bytes so far, then ``error`` is raised."""
        self._error = error
        self.finish()

    def _wake(self) -> None:
        self._changed.set()
        # An event that stays set would end the next wait at once.
        self._changed = asyncio.Event()

    async def started(self) -> None:
        """Wait for the first byte. If the stream fails before it, raise that error."""
        while not self._length and not self._finished.is_set():
            await self._changed.wait()
        if not self._length and self._error is not None:
            raise self._error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield all bytes from the beginning as they arrive; raise the error of the stream."""
        position = 0
        while True:
            while position < len(self._chunks):
                yield self._chunks[position]
                position += 1
            if self._finished.is_set():
                break
            # No await lies between the check above and this one, so no chunk is missed.
            await self._changed.wait()
        if self._error is not None:
            raise self._error

    async def whole(self) -> bytes:
        """Wait for the end and return all bytes, the same object for all callers."""
        # An event of its own: readers of the whole are not woken by each chunk.
        await self._finished.wait()
        if self._error is not None:
            raise self._error
        if self._joined is None:
            self._joined = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        return self._joined
