"""What has begun and not ended, by variant, so that a purge reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from proxy.domain.variant import Shapes, Variant, has_shape


class WriteTicket:
    """A read or a write that has begun; ``void`` once its variant was purged."""

    __slots__ = ("digest", "void")

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.void = False


class WriteRegistry:
    """The tickets of one store.

    A ticket made void stays void: what began before a purge and ends after it must not bring the
    medium back. Nothing is kept of purges themselves, so they may be many.
    """

    def __init__(self) -> None:
        self._tickets: dict[int, set[WriteTicket]] = {}

    @contextmanager
    def ticket(self, variant: Variant) -> Iterator[WriteTicket]:
        """The ticket of a read or a write, for as long as that lasts."""
        ticket = WriteTicket(variant.digest)
        tickets = self._tickets.setdefault(variant.media_id, set())
        tickets.add(ticket)
        try:
            yield ticket
        finally:
            tickets.discard(ticket)
            if not tickets:
                self._tickets.pop(variant.media_id, None)

    def purge(self, media_id: int, shapes: Shapes = None) -> None:
        """Make void what is under way for a medium, in these shapes or in all."""
        for ticket in self._tickets.get(media_id, ()):
            ticket.void = ticket.void or has_shape(ticket.digest, shapes)
