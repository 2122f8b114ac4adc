"""The doorkeeper: knows the open connections, lets in so many, and looks after each in turn.

One look a second, at stamps that a connection has anyway, stands in for a timer for each request.
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
"""How often each connection is looked at, and so by how much a deadline may be overdrawn."""
_SHARE = 4
"""A deadline is looked at so many times before it is over, where it is shorter than that."""
_AT_ONCE = 500
"""Connections that are looked at before the loop has its turn: about half a millisecond."""
_RESERVE = 64
_RESERVE_SHARE = 8
"""Places above the limit: `_RESERVE`, or this part of a limit that is smaller."""
RESERVE_HEADER_S = 1.0
"""How long a connection on such a place may take for the head of its request."""


class CloseReason(StrEnum):
    """Why a connection was closed."""

    ENDED = "ended"
    """By its client, or behind its last answer."""
    HEADER = "header_timeout"
    IDLE = "idle_timeout"
    WRITE = "write_timeout"
    REFUSED = "refused"
    """What came was no request, or one that is not answered."""
    OVER_LIMIT = "over_limit"


class ConnectionSlot(Enum):
    """Where a new connection stands."""

    SEAT = auto()
    RESERVE = auto()
    """Above the limit: only who asks how the server is gets an answer, all others a 503."""
    NONE = auto()


class LimitedConnection(Protocol):
    """A connection, as the doorkeeper sees it."""

    def give_way(self) -> bool:
        """Close it for want of room, unless an answer is under way; whether it does."""

    def review(self, now: float) -> None:
        """Close it if it is overdue by ``now``, on the loop's clock."""


class ConnectionLimiter:
    """Counts the connections and has each of them reviewed.

    Above ``max_connections`` a connection finds one of the few places in reserve, where only the
    orchestrator's probes are answered. There the newest is the likeliest to be one: so the oldest
    that has asked for nothing gives way, without a word, for under attack a word each is too much.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """``max_connections`` may be lowered until the first connection comes."""
        self.max_connections = settings.max_connections
        self.header_timeout_s = settings.header_timeout_s
        self.write_timeout_s = settings.write_timeout_s
        deadlines = (
            settings.keepalive_s,
            *filter(None, (settings.header_timeout_s, settings.write_timeout_s)),
        )
        self._round_s = min(_ROUND_S, min(deadlines) / _SHARE)
        self._guests: dict[LimitedConnection, None] = {}
        self._reserve: dict[LimitedConnection, None] = {}
        self._closed = dict.fromkeys(CloseReason, 0)

    def enter(self, guest: LimitedConnection) -> ConnectionSlot:
        """Take a new connection in where there is room."""
        limit = self.max_connections
        if not limit or len(self._guests) < limit:
            self._guests[guest] = None
            return ConnectionSlot.SEAT
        places = min(_RESERVE, limit // _RESERVE_SHARE)
        if len(self._reserve) >= places and not self._make_way():
            return ConnectionSlot.NONE
        self._guests[guest] = self._reserve[guest] = None
        return ConnectionSlot.RESERVE

    def _make_way(self) -> bool:
        """Free the place in reserve that has been held longest for nothing."""
        for guest in self._reserve:
            if guest.give_way():
                del self._reserve[guest]
                return True
        return False

    def leave(self, guest: LimitedConnection, reason: CloseReason) -> None:
        """Strike out a connection that is closed, also one that found no place."""
        self._guests.pop(guest, None)
        self._reserve.pop(guest, None)
        self._closed[reason] += 1

    @asynccontextmanager
    async def watching(self, supervisor: TaskSupervisor = UNCOUNTED) -> AsyncIterator[None]:
        """Review all connections from time to time while the block runs."""
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
        guests = list(self._guests)
        errors: list[Exception] = []
        for start in range(0, len(guests), _AT_ONCE):
            now = loop.time()
            for guest in guests[start : start + _AT_ONCE]:
                try:
                    guest.review(now)
                except Exception as error:  # noqa: BLE001 - raised below, to the supervisor
                    # One connection that always fails must not disable the deadlines of the
                    # connections behind it.
                    errors.append(error)
            await asyncio.sleep(0)
        if errors:
            raise ExceptionGroup("connections could not be reviewed", errors)

    def statistics(self) -> Mapping[str, float]:
        """Connections that are open, and those closed by reason."""
        closed = {f"closed_{reason}": count for reason, count in self._closed.items()}
        return {"open": len(self._guests), **closed}
