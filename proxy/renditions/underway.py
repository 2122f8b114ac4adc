"""What has begun and not ended, by medium, so that a purge reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Ticket:
    """A read or a write that has begun; ``void`` once its medium was purged."""

    __slots__ = ("media_id", "void")

    def __init__(self, media_id: int) -> None:
        self.media_id = media_id
        self.void = False


class Underway:
    """The tickets of one store.

    A ticket made void stays void: what began before a purge and ends after it must not bring the
    medium back. Nothing is kept of purges themselves, so they may be many.
    """

    def __init__(self) -> None:
        self._tickets: dict[int, set[Ticket]] = {}

    @contextmanager
    def ticket(self, media_id: int) -> Iterator[Ticket]:
        """The ticket of a read or a write, for as long as that lasts."""
        ticket = Ticket(media_id)
        tickets = self._tickets.setdefault(media_id, set())
        tickets.add(ticket)
        try:
            yield ticket
        finally:
            tickets.discard(ticket)
            if not tickets:
                self._tickets.pop(media_id, None)

    def purge(self, media_id: int) -> None:
        """Make void all that is under way for a medium."""
        for ticket in self._tickets.get(media_id, ()):
            ticket.void = True
