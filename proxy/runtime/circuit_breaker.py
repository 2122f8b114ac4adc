"""A circuit breaker: after a failure, calls are refused for a while instead of failing slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import structlog

log = structlog.get_logger(__name__)


class CircuitBreaker:
    """Opens for ``pause_s`` seconds after each failure.

    Callers check `failing`, and if it is set `open`, before a call, which runs within `trial`. They
    report a failure with `trip`, and a success with `succeed`.
    """

    def __init__(self, name: str, *, pause_s: float, clock: Callable[[], float]) -> None:
        """``clock`` is monotonic, so a wall clock that jumps does not affect the breaker."""
        self._name = name
        self._pause_s = pause_s
        self._clock = clock
        self.open_until = -inf
        """The time of the clock until which calls are refused; minus infinity if closed."""
        self.failing = False
        """Whether the last reported result was a failure. A plain attribute: while nothing fails,
        the request path calls no method of the breaker."""
        self._half_open = False
        """Whether the first call after the pause is being made."""

    @property
    def open(self) -> bool:
        """Return whether calls are to be refused now."""
        # The result of the trial decides for all other calls.
        return self.failing and (self._half_open or self._clock() < self.open_until)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Context manager for a call: if the breaker is failing, others are refused meanwhile.

        Not needed while nothing fails.
        """
        # A call that began before the first failure must not end the trial of another one.
        trial = self.failing
        self._half_open |= trial
        try:
            yield
        finally:
            if trial:
                self._half_open = False

    def trip(self, reason: str) -> None:
        """Report a failure. Only the first one in a row is logged."""
        if not self.failing:
            log.warning("circuit_opened", circuit=self._name, reason=reason, pause_s=self._pause_s)
        # Also for a failure during the pause, of a call that began before it.
        self.open_until = self._clock() + self._pause_s
        self.failing = True

    def succeed(self) -> None:
        """Report a success; it has no effect unless the last result was a failure."""
        if self.failing:
            log.info("circuit_closed", circuit=self._name)
            self.open_until = -inf
            self.failing = False
