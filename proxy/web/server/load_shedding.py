"""Load shedding: rejects requests early while the workers' queue is full or the event loop lags.

To resolve a request (its row, its plan, what is stored of its image) takes about a millisecond of
the event loop. Once the queue has hardly any room, no more requests are resolved than could still
be queued, and a few that may find another size. For all others only the storage is checked.
Responses from the response cache bypass all of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf

from proxy.rendering.pool.admission import Admission

_SPARE = 1
"""Requests resolved beyond the room in the queue. At twice the possible load 1 found another size
as often as 4 did; at ten times the load 4 delayed the hits."""
_LATE_S = 0.02
"""Lag that counts as overload: about twenty requests are then waiting for the loop. A machine that
is busy with other work causes a few milliseconds."""
_TICK_S = 0.05
_IDLE_TICK_S = 1.0
"""Interval of the timer while no request is resolved: an idle server hardly wakes up."""
_REPORT_S = 0.5


class LoadShedder:
    """Counts the requests being resolved, and rejects requests while there are too many.

    It also measures event-loop lag, by a timer that records how late it ran.
    """

    def __init__(
        self, admission: Admission, report: Callable[[float], None] = lambda _: None
    ) -> None:
        """``report`` is called with a measured lag in seconds, at most every 0.5 s."""
        self._admission = admission
        self._report = report
        self._reported_at = 0.0
        self._timer: asyncio.TimerHandle
        self._due = inf
        self._idle = False
        self._late_s = 0.0
        self.resolving = 0

    @property
    def late_s(self) -> float:
        """The lag in seconds: that of the last timer, or of the next if it is overdue by more.

        Read it on the loop.
        """
        # After a long callback, others may run before the overdue timer does.
        return max(self._late_s, asyncio.get_running_loop().time() - self._due)

    @asynccontextmanager
    async def measuring_lag(self) -> AsyncIterator[None]:
        """Measure event-loop lag within the block."""
        self._set_timer()
        try:
            yield
        finally:
            self._timer.cancel()
            self._idle, self._due, self._late_s = False, inf, 0.0

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        # An idle server rejects nothing, so its lag is only measured for the metric.
        self._idle = not self.resolving
        self._due = loop.time() + (_IDLE_TICK_S if self._idle else _TICK_S)
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        self._late_s = max(0.0, now - self._due)
        # Set the next timer first: an error of the callback must not end the measurement.
        self._set_timer()
        if now - self._reported_at >= _REPORT_S:
            self._reported_at = now
            self._report(self._late_s)

    def ticket(self) -> SheddingTicket:
        """Count one more request as being resolved, until the ticket is released."""
        return SheddingTicket(self)

    def begin(self) -> None:
        """Count one more request as being resolved."""
        self.resolving += 1
        if self._idle:
            # What was measured up to a second ago says nothing about the load that begins now. An
            # overdue timer does: it is cancelled, but its lag counts until the next one fires.
            self._timer.cancel()
            self._late_s = max(0.0, asyncio.get_running_loop().time() - self._due)
            self._set_timer()

    @property
    def overloaded(self) -> bool:
        """Whether a new request would find neither room in the queue nor time on the loop.

        False while less than half of the queue is taken: before that, many requests at once are
        mostly for what is on disk, or for one and the same render.
        """
        # While no job waits, the whole queue is free. Each miss asks three times, so the rest is
        # left out then.
        if self._admission.has_queue and not self._admission.waiting:
            return False
        # Each request being resolved may need a place, so the room must suffice for all of them.
        room = self._admission.free_places
        if 2 * room > self._admission.max_waiting or self.resolving <= room:
            return False
        # A few requests beyond the room are resolved, unless the loop lags: they may find another
        # size.
        return self.resolving > room + _SPARE or self.late_s > _LATE_S

    def check(self) -> None:
        """Raise `Overloaded` and count the rejection if there is overload."""
        if self.overloaded:
            raise self._admission.shed()


class SheddingTicket:
    """Counts a request until it is released: when it ends, or when it waits for a worker."""

    __slots__ = ("_shedder", "counted", "overloaded")

    def __init__(self, shedder: LoadShedder) -> None:
        self._shedder = shedder
        shedder.begin()
        self.counted = True
        self.overloaded = shedder.overloaded
        """Whether there was overload when the request began."""

    def wait_for_render(self, new: bool) -> None:  # noqa: FBT001 - called by `Delivery.fetch`
        """Stop counting: from here on the request waits for a worker and takes no loop time.

        Raises:
            Overloaded: a ``new`` render would be started. To join one costs nothing.
        """
        if new:
            self._shedder.check()
        self.release()

    def release(self) -> None:
        """Stop counting; later calls have no effect."""
        self._shedder.resolving -= self.counted
        self.counted = False
