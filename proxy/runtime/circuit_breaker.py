"""A circuit breaker: after a failure, calls are refused for a while instead of failing slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import structlog

log = structlog.get_logger(__name__)


class CircuitBreaker:
    """Opens for ``pause_s`` seconds after each failure.

    Callers check `open` before a call. They report the result with `trip` and `succeed`, or wrap
    the call in `attempt`, which does both and lets one call at a time through while the last one
    failed (half-open).
    """

    def __init__(self, name: str, *, pause_s: float, clock: Callable[[], float]) -> None:
        """``clock`` is monotonic, so a wall clock that jumps does not affect the breaker."""
        self._name = name
        self._pause_s = pause_s
        self._clock = clock
        self._trial = False
        self.open_until = -inf
        """The time of the clock until which calls are refused; minus infinity if closed."""
        self.failing = False
        """Whether the last reported result was a failure. A plain attribute: callers on the request
        path check it first, and call the breaker only if it is set."""

    @property
    def open(self) -> bool:
        """Return whether calls are to be refused now."""
        return self.failing and (self._trial or self._clock() < self.open_until)

    @contextmanager
    def attempt(self, failure: type[Exception]) -> Iterator[None]:
        """Report the result of the block: ``failure`` trips the breaker, a return closes it.

        Other errors and a cancellation do not show whether the callee works, and change nothing.
        """
        # After a failure this call is the trial: `open` is True for all others until it ends.
        trial = self._trial = self.failing
        try:
            yield
        except failure as error:
            self.trip(type(error).__name__)
            raise
        else:
            self.succeed()
        finally:
            # A call that began before the first failure must not end the trial of another one.
            self._trial = self._trial and not trial

    def trip(self, reason: str) -> None:
        """Report a failure. Only the first one in a row is logged."""
        if not self.failing:
            log.warning("circuit_opened", circuit=self._name, reason=reason, pause_s=self._pause_s)
        self.open_until = self._clock() + self._pause_s
        self.failing = True

    def succeed(self) -> None:
        """Report a success."""
        if self.failing:
            log.info("circuit_closed", circuit=self._name)
        self.open_until = -inf
        self.failing = False
