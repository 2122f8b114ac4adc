"""A sink that bounds what a worker may write."""

from __future__ import annotations

from collections.abc import Callable

from proxy.workers.process import Sink


def _nothing() -> None:
    """What is called as long as nobody listens."""


class Counted:
    """A sink that counts, and calls ``overflow`` instead of passing on what is too much."""

    def __init__(self, sink: Sink, max_bytes: int) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self.total = 0
        self.listen()

    def listen(
        self, *, overflow: Callable[[], None] = _nothing, moved: Callable[[], None] = _nothing
    ) -> None:
        """Call these from now on, and nobody who was called before; ``moved`` after each piece."""
        self._overflow = overflow
        self._moved = moved

    @property
    def full(self) -> bool:
        """Whether too much has come; all after that is dropped."""
        return self.total > self._max_bytes

    def __call__(self, chunk: bytes) -> None:
        """Take in bytes as they come."""
        self.total += len(chunk)
        if self.full:
            self._overflow()
        else:
            self._sink(chunk)
            self._moved()
