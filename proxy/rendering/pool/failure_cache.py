"""Quarantine: pictures that could not be rendered are refused for a while, unheard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachetools import LRUCache

from proxy.domain.errors import RenderError, RenderTimeout, SmartserveError, SourceQuarantined

_MAX_ENTRIES = 10_000
_LONGEST_S = 3600.0
"""The back-off of a picture that goes on killing its workers doubles up to this."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    error: RenderError
    until: float
    times: int


class FailureCache:
    """Remembers why a picture could not be rendered, so that asking again costs nothing.

    A corrupt picture is refused for ``failure_s``; one that killed its workers for
    ``quarantine_s``, and twice as long each time it does so again. An hour in peace is forgiven.
    """

    def __init__(
        self,
        *,
        failure_s: float,
        quarantine_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` gives seconds and is only compared with itself."""
        self._failure_s = failure_s
        self._quarantine_s = quarantine_s
        self._clock = clock
        self._refusals: LRUCache[str, _Refusal] = LRUCache(_MAX_ENTRIES)

    def check(self, key: str) -> None:
        """Raise what is remembered of a picture, while it lasts."""
        refusal = self._refusals.get(key)
        if refusal is not None and self._clock() < refusal.until:
            raise type(refusal.error)(refusal.error.detail)

    def remember(self, key: str, error: SmartserveError) -> None:
        """Note a failure; only what the picture itself is to blame for is kept."""
        if not isinstance(error, RenderError):
            return
        before = self._refusals.get(key)
        if before is not None and self._clock() > before.until + _LONGEST_S:
            before = None
        times = 1 if before is None else before.times + 1
        self._refusals[key] = _Refusal(error, self._clock() + self._length_s(error, times), times)

    def _length_s(self, error: RenderError, times: int) -> float:
        if isinstance(error, SourceQuarantined | RenderTimeout):
            return min(self._quarantine_s * 2.0 ** min(times - 1, 16), _LONGEST_S)
        return self._failure_s

    def statistics(self) -> Mapping[str, float]:
        """Pictures remembered."""
        return {"items": len(self._refusals)}
