"""A monotonic or wall clock that changes only if a test sets it."""

from __future__ import annotations


class Clock:
    """Returns ``now`` when it is called."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
