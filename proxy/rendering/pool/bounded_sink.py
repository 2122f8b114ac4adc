"""A sink that bounds what a worker may write, and goes on where a worker that died has stopped."""

from __future__ import annotations

from collections.abc import Callable

import xxhash

from proxy.rendering.pool.process import Sink


def _nothing() -> None:
    """What is called as long as nobody listens."""


class BoundedSink:
    """A sink that counts, and calls ``overflow`` instead of passing on what is too much.

    Renders are deterministic. So when a job is tried again, the bytes that have gone out already
    are compared with those, and not sent twice.
    """

    def __init__(self, sink: Sink, max_bytes: int) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._passed = xxhash.xxh3_128()
        self._again = xxhash.xxh3_128()
        self._to_come = 0
        self._differs = False
        self.total = 0
        self.listen()

    def listen(
        self, *, overflow: Callable[[], None] = _nothing, moved: Callable[[], None] = _nothing
    ) -> None:
        """Call these from now on, and nobody who was called before; ``moved`` after each piece."""
        self._overflow = overflow
        self._moved = moved

    def begin_again(self) -> None:
        """Expect all bytes from the first on, of which those that were passed on are left out."""
        self._again = xxhash.xxh3_128()
        self._to_come = self.total

    @property
    def full(self) -> bool:
        """Whether too much has come; all after that is dropped."""
        return self.total > self._max_bytes

    @property
    def diverged(self) -> bool:
        """Whether what came again is not, or not yet, what came before."""
        return self._differs or self._to_come > 0

    def __call__(self, chunk: bytes) -> None:
        """Take in bytes as they come."""
        if self._to_come:
            chunk = self._compared(chunk)
        if self._differs:
            return
        self.total += len(chunk)
        if self.full:
            self._overflow()
        else:
            self._pass_on(chunk)

    def _pass_on(self, chunk: bytes) -> None:
        if chunk:
            self._passed.update(chunk)
            self._sink(chunk)
        self._moved()

    def _compared(self, chunk: bytes) -> bytes:
        """What of a chunk has not come before."""
        again, new = chunk[: self._to_come], chunk[self._to_come :]
        self._again.update(again)
        self._to_come -= len(again)
        self._differs = not self._to_come and self._again.digest() != self._passed.digest()
        return new
