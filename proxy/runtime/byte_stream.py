"""A stream of bytes that grows, for many readers at once, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class ByteStream:
    """Encoded bytes on their way from one worker to all who wait for them.

    Fed and ended by one owner; readers may come at any time, also after the end, and read from the
    beginning. A reader that leaves changes nothing for the others.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._length = 0
        self._joined: bytes | None = None
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def length(self) -> int:
        """Bytes so far; the whole length once `complete`."""
        return self._length

    @property
    def complete(self) -> bool:
        """Whether the stream has ended well."""
        return self._ended and self._error is None

    def feed(self, chunk: bytes) -> None:
        """Append bytes and wake the readers."""
        self._chunks.append(chunk)
        self._length += len(chunk)
        self._wake()

    def finish(self) -> None:
        """End the stream: all of it is there."""
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """End the stream: every reader gets the bytes so far and then ``error``."""
        self._ended = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def started(self) -> None:
        """Return when there is a first byte; raises where the stream failed before it."""
        while not self._length and not self._ended:
            await self._changed.wait()
        if not self._length and self._error is not None:
            raise self._error

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """All bytes from the beginning, as they come; raises where the stream fails."""
        position = 0
        while True:
            while position < len(self._chunks):
                yield self._chunks[position]
                position += 1
            if self._ended:
                break
            await self._changed.wait()
        if self._error is not None:
            raise self._error

    async def whole(self) -> bytes:
        """All bytes once the stream has ended, the same object for all; raises where it failed."""
        while not self._ended:
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        if self._joined is None:
            self._joined = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        return self._joined
