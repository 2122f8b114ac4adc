"""A breaker: after a failure, leave the disk alone for some seconds."""

from __future__ import annotations

from collections.abc import Callable

import structlog

_log = structlog.get_logger()


class CircuitBreaker:
    """Open for ``pause_s`` after each failure, then one more try is as good as any.

    ``clock`` is monotonic, so that a clock that jumps neither locks it nor unlocks it.
    """

    def __init__(self, name: str, *, pause_s: float, clock: Callable[[], float]) -> None:
        self._name = name
        self._pause_s = pause_s
        self._clock = clock
        self._until: float | None = None

    @property
    def open(self) -> bool:
        """Whether to leave the disk alone now."""
        return self._until is not None and self._clock() < self._until

    def trip(self, kind: str) -> None:
        """A failure; told to the log only when it is the first in a row."""
        if self._until is None:
            _log.warning("rendition disk paused", what=self._name, kind=kind, seconds=self._pause_s)
        self._until = self._clock() + self._pause_s

    def succeed(self) -> None:
        """The disk works again."""
        if self._until is not None:
            _log.info("rendition disk works again", what=self._name)
            self._until = None
