"""Quarantine: what could not be rendered is refused for a while, and longer each time."""

import pytest

from proxy.domain.errors import QueueFull, SourceQuarantined, SourceUnavailable, UndecodableSource
from proxy.rendering.pool.failure_cache import FailureCache


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quarantine(clock: Clock) -> FailureCache:
    return FailureCache(failure_s=10, quarantine_s=60, clock=clock)


def refused(quarantine: FailureCache, key: str = "picture") -> bool:
    try:
        quarantine.check(key)
    except (UndecodableSource, SourceQuarantined):
        return True
    return False


def test_a_picture_that_never_failed_is_welcome(quarantine: FailureCache) -> None:
    assert not refused(quarantine)


def test_a_corrupt_picture_is_refused_for_a_short_while(
    quarantine: FailureCache, clock: Clock
) -> None:
    quarantine.remember("picture", UndecodableSource("corrupt"))
    with pytest.raises(UndecodableSource, match="corrupt"):
        quarantine.check("picture")
    clock.now += 10
    assert not refused(quarantine)


def test_a_killer_is_refused_for_twice_as_long_each_time(
    quarantine: FailureCache, clock: Clock
) -> None:
    for length_s in (60, 120, 240):
        quarantine.remember("picture", SourceQuarantined("killer"))
        clock.now += length_s - 1
        assert refused(quarantine)
        clock.now += 1
        assert not refused(quarantine)


def test_the_longest_time_is_an_hour(quarantine: FailureCache, clock: Clock) -> None:
    for _ in range(100):
        quarantine.remember("picture", SourceQuarantined("killer"))
    clock.now += 3600
    assert not refused(quarantine)


@pytest.mark.parametrize("error", [QueueFull("busy"), SourceUnavailable("no storage")])
def test_what_is_not_the_pictures_fault_is_not_held_against_it(
    quarantine: FailureCache, error: QueueFull | SourceUnavailable
) -> None:
    quarantine.remember("picture", error)
    assert not refused(quarantine)


def test_other_pictures_are_welcome(quarantine: FailureCache) -> None:
    quarantine.remember("picture", SourceQuarantined("killer"))
    assert not refused(quarantine, "another")


def test_an_hour_in_peace_is_a_new_beginning(quarantine: FailureCache, clock: Clock) -> None:
    quarantine.remember("picture", SourceQuarantined("killer"))
    clock.now += 60 + 3601
    quarantine.remember("picture", SourceQuarantined("killer"))
    clock.now += 60
    assert not refused(quarantine)
