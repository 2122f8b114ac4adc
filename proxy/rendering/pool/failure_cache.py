"""Remembers images that could not be rendered, so that repeated requests cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachetools import LRUCache

from proxy.domain.errors import (
    RenderError,
    RenderFault,
    RenderTimeout,
    SmartserveError,
    SourceQuarantined,
)
from proxy.rendering.pool.pending_job import WorkerDied

_MAX_ENTRIES = 10_000
_MAX_BACKOFF_S = 3600.0
"""Upper limit of the back-off; also the time without failures after which it starts anew."""
_MAX_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class _Failure:
    error: RenderError
    until: float
    times: int


class FailureCache:
    """An LRU cache of failures by source key.

    A corrupt image is refused for ``failure_s``. One that crashed or blocked workers is refused for
    ``quarantine_s``, doubled with each further failure.
    """

    def __init__(
        self,
        *,
        failure_s: float,
        quarantine_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` returns seconds."""
        self._failure_s = failure_s
        self._quarantine_s = quarantine_s
        self._clock = clock
        self._failures: LRUCache[str, _Failure] = LRUCache(_MAX_ENTRIES)

    def check(self, key: str) -> None:
        """Raise the remembered error while it is valid."""
        failure = self._failures.get(key)
        if failure is not None and self._clock() < failure.until:
            # A new instance: the traceback of the first one would keep its frames alive.
            raise type(failure.error)(failure.error.detail)

    def remember(self, key: str, error: SmartserveError) -> None:
        """Store a failure that the image itself caused; other errors are ignored."""
        if not isinstance(error, RenderError):
            return
        before = self._failures.get(key)
        # After a long time without failures the back-off starts anew.
        times = 1
        if before is not None and self._clock() <= before.until + _MAX_BACKOFF_S:
            times = before.times + 1
        refused_s = self._failure_s
        if isinstance(error, RenderFault) and isinstance(error.__cause__, WorkerDied):
            # A job whose response is being streamed is not repeated. One death of its worker proves
            # nothing about the image (out of memory, for example); a second one quarantines it.
            refused_s = 0.0
            if times > 1:
                error = SourceQuarantined("the image made its workers crash; refused for a while")
        if isinstance(error, SourceQuarantined | RenderTimeout):
            backoff_s = self._quarantine_s * 2.0 ** min(times - 1, _MAX_DOUBLINGS)
            refused_s = min(backoff_s, _MAX_BACKOFF_S)
        self._failures[key] = _Failure(error, self._clock() + refused_s, times)

    def statistics(self) -> Mapping[str, float]:
        """Return the number of entries."""
        return {"items": len(self._failures)}
