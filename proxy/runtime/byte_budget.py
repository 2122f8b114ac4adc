"""A limit of the bytes that several tasks hold in memory at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress


class ByteBudget:
    """Grants bytes in the order of the calls; use it on the event loop.

    More than the limit is granted while nothing else is held: such a caller would wait for ever.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_take(self, count: int) -> bool:
        """Take bytes and return True, unless that needs a wait. The caller gives them back."""
        if self._waiting or not self._fits(count):
            return False
        self._held += count
        return True

    async def take(self, count: int) -> None:
        """Take bytes, after a wait if necessary; the caller gives them back."""
        if self.try_take(count):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (count, granted)
        self._waiting.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            # It may have been granted in the same turn of the loop.
            if granted.done() and not granted.cancelled():
                self.give(count)
            else:
                # `_grant` may have dropped it already.
                with suppress(ValueError):
                    self._waiting.remove(entry)
                # A smaller one behind it may fit.
                self._grant()
            raise

    def add(self, count: int) -> None:
        """Take bytes that are in memory already, also above the limit; the caller gives them back.

        Later callers of `take` wait until enough is given back.
        """
        self._held += count

    def give(self, count: int) -> None:
        """Give back what was taken."""
        self._held -= count
        self._grant()

    def _fits(self, count: int) -> bool:
        return self._held == 0 or self._held + count <= self._max_bytes

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            count, granted = self._waiting.popleft()
            # Cancelled, but its task has not run since.
            if not granted.done():
                self._held += count
                granted.set_result(None)

    def statistics(self) -> Mapping[str, float]:
        """Return the bytes that are held, and the number of callers that wait."""
        return {"held_bytes": self._held, "waiting": len(self._waiting)}
