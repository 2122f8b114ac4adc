"""The limit of connections, and the review of their deadlines."""

from __future__ import annotations

import pytest

from proxy.runtime.supervised_task import BackgroundTask
from proxy.settings import ServerSettings
from proxy.web.server.connection_limits import CloseReason, ConnectionLimiter, ConnectionSlot
from tests.support.restarts import Restarts
from tests.support.waiting import eventually


class Guest:
    """A connection that gives way, or is busy."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy
        self.gone = False
        self.reviewed: list[float] = []

    def evict(self) -> bool:
        self.gone = not self.busy
        return self.gone

    def review(self, now: float) -> None:
        self.reviewed.append(now)


def doorkeeper(limit: int) -> ConnectionLimiter:
    return ConnectionLimiter(ServerSettings(max_connections=limit))


def test_so_many_have_a_seat_and_an_eighth_more_a_place_in_reserve() -> None:
    door = doorkeeper(16)
    places = [door.enter(Guest(busy=True)) for _ in range(20)]
    assert (
        places
        == [ConnectionSlot.REGULAR] * 16 + [ConnectionSlot.RESERVE] * 2 + [ConnectionSlot.NONE] * 2
    )
    assert door.statistics()["open"] == 18


def test_the_reserve_is_64_places_at_most() -> None:
    door = doorkeeper(1000)
    places = [door.enter(Guest(busy=True)) for _ in range(1100)]
    assert places.count(ConnectionSlot.RESERVE) == 64


def test_the_one_that_holds_a_place_in_reserve_longest_for_nothing_gives_way() -> None:
    door = doorkeeper(16)
    for _ in range(16):
        door.enter(Guest())
    first, second, third = Guest(busy=True), Guest(), Guest()
    assert [door.enter(one) for one in (first, second, third)] == [ConnectionSlot.RESERVE] * 3
    assert [one.gone for one in (first, second, third)] == [False, True, False]


def test_a_place_that_is_left_is_free_again() -> None:
    door = doorkeeper(8)
    guests = [Guest() for _ in range(8)]
    for guest in guests:
        door.enter(guest)
    door.leave(guests[0], CloseReason.IDLE)
    assert door.enter(Guest()) is ConnectionSlot.REGULAR
    assert door.statistics()["closed_idle_timeout"] == 1


def test_reasons_are_a_closed_set() -> None:
    assert {name for name in doorkeeper(8).statistics() if name != "open"} == {
        f"closed_{reason}"
        for reason in (
            *("ended", "header_timeout", "idle_timeout", "write_timeout"),
            *("refused", "over_limit"),
        )
    }


async def test_each_is_reviewed_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    door = doorkeeper(0)
    guests = [Guest() for _ in range(1200)]
    for guest in guests:
        assert door.enter(guest) is ConnectionSlot.REGULAR
    await door._review_all()
    assert [len(guest.reviewed) for guest in guests] == [1] * 1200


class FailingGuest(Guest):
    """Its review fails, each time."""

    def review(self, now: float) -> None:
        super().review(now)
        raise OSError(9, "Bad file descriptor")


async def test_a_review_that_fails_neither_ends_the_reviews_nor_skips_other_connections() -> None:
    door, restarts = doorkeeper(0), Restarts()
    guests = [FailingGuest(), Guest()]
    for guest in guests:
        door.enter(guest)
    async with door.watching(restarts.supervisor):
        await eventually(lambda: all(len(guest.reviewed) > 1 for guest in guests))
    assert BackgroundTask.CONNECTION_TIMEOUTS in restarts.tasks
