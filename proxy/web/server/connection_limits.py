"""Connection limits: the number of open connections, and the deadlines of each.

Once a second the time stamps of every connection are reviewed, which costs less than a timer for
each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum, StrEnum, auto
from typing import Protocol

from proxy.runtime.supervised_task import UNCOUNTED, BackgroundTask, TaskSupervisor
from proxy.settings import ServerSettings

_ROUND_S = 1.0
"""Interval of the reviews, and so the longest time by which a deadline is exceeded."""
_REVIEWS_PER_DEADLINE = 4
"""The interval is at most the shortest deadline divided by this."""
_BATCH = 500
"""Connections reviewed before the loop runs other work: about half a millisecond."""
_RESERVE = 64
_RESERVE_SHARE = 8
"""Slots above the limit: `_RESERVE`, or this part of a lower limit."""
RESERVE_HEADER_S = 1.0
"""Time for the request head on a reserve slot."""


class CloseReason(StrEnum):
    """Why a connection was closed; the label of a metric."""

    ENDED = "ended"
    """By the client, or after its last response."""
    HEADER = "header_timeout"
    IDLE = "idle_timeout"
    WRITE = "write_timeout"
    REFUSED = "refused"
    """The request was malformed or rejected."""
    OVER_LIMIT = "over_limit"


class ConnectionSlot(Enum):
    """The kind of slot that a new connection gets."""

    REGULAR = auto()
    RESERVE = auto()
    """Above the limit: probes are answered, all other requests get a 503."""
    NONE = auto()
    """A 503 is sent without reading a request."""


class LimitedConnection(Protocol):
    """A connection as the limiter uses it."""

    def evict(self) -> bool:
        """Close it to free its slot, unless a response is due; return whether it was closed."""

    def review(self, now: float) -> None:
        """Close it if a deadline has passed by ``now``, on the loop's clock."""


class ConnectionLimiter:
    """Counts the connections and reviews each of them periodically.

    Above ``max_connections`` a connection gets one of the few reserve slots, where only the
    probes of an orchestrator are answered. The newest is the likeliest to be a probe, so the
    oldest that has sent no request is evicted. If none can be, a 503 is sent and the connection
    closed, without reading its request.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """``max_connections`` may be lowered until the first connection arrives."""
        self.max_connections = settings.max_connections
        self.header_timeout_s = settings.header_timeout_s
        self.write_timeout_s = settings.write_timeout_s
        deadlines = (
            settings.keepalive_s,
            *filter(None, (settings.header_timeout_s, settings.write_timeout_s)),
        )
        self._round_s = min(_ROUND_S, min(deadlines) / _REVIEWS_PER_DEADLINE)
        self._connections: dict[LimitedConnection, None] = {}
        self._reserve: dict[LimitedConnection, None] = {}
        self._closed = dict.fromkeys(CloseReason, 0)

    def enter(self, connection: LimitedConnection) -> ConnectionSlot:
        """Return the slot of a new connection and count it."""
        limit = self.max_connections
        # 0 means no limit.
        if not limit or len(self._connections) < limit:
            self._connections[connection] = None
            return ConnectionSlot.REGULAR
        slots = min(_RESERVE, max(1, limit // _RESERVE_SHARE))
        if len(self._reserve) < slots or self._evict_oldest():
            self._connections[connection] = self._reserve[connection] = None
            return ConnectionSlot.RESERVE
        return ConnectionSlot.NONE

    def _evict_oldest(self) -> bool:
        # Dicts keep the order of insertion, so the oldest comes first.
        for connection in self._reserve:
            if connection.evict():
                # Not left to `leave`, which runs only when the transport is closed.
                del self._reserve[connection]
                return True
        return False

    def leave(self, connection: LimitedConnection, reason: CloseReason) -> None:
        """Count a connection as closed, also one that got no slot."""
        self._connections.pop(connection, None)
        self._reserve.pop(connection, None)
        self._closed[reason] += 1

    @asynccontextmanager
    async def watching(self, supervisor: TaskSupervisor = UNCOUNTED) -> AsyncIterator[None]:
        """Review all connections periodically while the block runs."""
        async with supervisor.running(
            BackgroundTask.CONNECTION_TIMEOUTS,
            self._review_all,
            every_s=self._round_s,
            first_after_s=self._round_s,
        ):
            yield

    async def _review_all(self) -> None:
        """Review each connection; the loop runs other work after each batch.

        Raises:
            ExceptionGroup: the review of some connections failed; all others were reviewed.
        """
        loop = asyncio.get_running_loop()
        # A copy: connections come and go while the loop runs other work.
        connections = list(self._connections)
        errors: list[Exception] = []
        for start in range(0, len(connections), _BATCH):
            # Read again for each batch, because the work in between takes time.
            now = loop.time()
            for connection in connections[start : start + _BATCH]:
                try:
                    connection.review(now)
                except Exception as error:  # noqa: BLE001 - raised below, to the supervisor
                    # One connection that always fails must not disable the deadlines of the
                    # connections behind it.
                    errors.append(error)
            await asyncio.sleep(0)
        if errors:
            raise ExceptionGroup("connections could not be reviewed", errors)

    def statistics(self) -> Mapping[str, float]:
        """Return the number of open connections, and of closed ones by reason."""
        closed = {f"closed_{reason}": count for reason, count in self._closed.items()}
        return {"open": len(self._connections), **closed}
