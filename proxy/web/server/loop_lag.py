"""The pulse of the event loop: how late it is with what is due, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_BEAT_S = 0.01


class LoopLagMonitor:
    """A timer that beats a hundred times a second; as late as it is, everything is."""

    def __init__(self) -> None:
        """At rest until `beating`."""
        self._timer: asyncio.TimerHandle | None = None
        self._late_s = 0.0

    @property
    def late_s(self) -> float:
        """Seconds that the last beat was late, or that the next is by now; read it on the loop."""
        if self._timer is None:
            return 0.0
        overdue_s = asyncio.get_running_loop().time() - self._timer.when()
        return max(self._late_s, overdue_s)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beat for the length of the block."""
        self._beat_next()
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _beat_next(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_BEAT_S, self._beat)

    def _beat(self) -> None:
        self._late_s = 0.0
        self._late_s = self.late_s
        self._beat_next()
