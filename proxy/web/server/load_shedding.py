"""The crowd: how many requests are looked at that may need a render, and when no more are.

To look at a request (its row, its plan, what there is of its picture) takes about a millisecond of
the event loop. So once hardly any room is left at the workers, no more are looked at than could
still find room, and a few that may find another size; of all others it is only asked whether
anything of their picture is stored. Hot answers pass by all of this, and what is stored is served.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from proxy.domain.errors import CapacityError
from proxy.rendering.pool.admission import Admission
from proxy.web.server.loop_lag import LoopLagMonitor

_SPARE = 1
"""Looks beyond the room that is left. At twice the load that can be rendered more are hardly ever
under way at once: as many found another size with 1 as with 4; at ten times they cost the time."""
_LATE_S = 0.01
"""From when on the loop is late: some ten requests then wait for their turn. A machine that is
busy with something else makes it a few milliseconds late without that."""


class LoadShedder:
    """Counts the looks under way, and turns requests away while there are too many."""

    def __init__(self, admission: Admission, pulse: LoopLagMonitor) -> None:
        """``admission`` knows the room that is left, ``pulse`` how late the loop is."""
        self._admission = admission
        self._pulse = pulse
        self.looks = 0

    def look(self) -> SheddingTicket:
        """A look at a request, to be entered."""
        return SheddingTicket(self)

    @property
    def dense(self) -> bool:
        """Whether there is neither room for one of those who are looked at, nor time.

        Only while half of the queue is taken: before that, many at once are mostly those who ask
        for what is on disk, or for one and the same render.
        """
        room = self._admission.room
        if 2 * room > self._admission.max_waiting or self.looks <= room:
            return False
        return self.looks > room + _SPARE or self._pulse.late_s > _LATE_S

    def turn_away(self) -> CapacityError | None:
        """What one of those who are looked at is told while they are too many; None before that."""
        return self._admission.turn_away() if self.dense else None


class SheddingTicket:
    """One look, over with the block or before that, when the request begins to wait for workers."""

    __slots__ = ("_crowd", "_open")

    def __init__(self, crowd: LoadShedder) -> None:
        self._crowd = crowd
        self._open = False

    def __enter__(self) -> Self:
        """Begin."""
        self._crowd.looks += 1
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """As `end`."""
        self.end()

    def end(self) -> None:
        """It is over, if it was not."""
        self._crowd.looks -= self._open
        self._open = False
