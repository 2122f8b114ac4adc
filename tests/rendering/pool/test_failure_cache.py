"""An image that failed is refused for a while, longer after each crash."""

import pytest

from proxy.domain.errors import (
    QueueFull,
    RenderFault,
    SourceQuarantined,
    SourceUnavailable,
    UndecodableSource,
)
from proxy.rendering.pool.failure_cache import FailureCache
from proxy.rendering.pool.pending_job import WorkerDied


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> FailureCache:
    return FailureCache(failure_s=10, quarantine_s=60, clock=clock)


def refused(failures: FailureCache, key: str = "image") -> bool:
    try:
        failures.check(key)
    except (UndecodableSource, SourceQuarantined):
        return True
    return False


def death() -> RenderFault:
    """The error of a job whose worker died while its response was streamed."""
    error = RenderFault("the worker process ended while it was writing the image")
    error.__cause__ = WorkerDied("crash")
    return error


def test_one_death_of_a_worker_during_a_response_refuses_nothing(failures: FailureCache) -> None:
    failures.remember("image", death())
    failures.check("image")


def test_a_second_death_of_a_worker_quarantines_the_image(
    failures: FailureCache, clock: Clock
) -> None:
    failures.remember("image", death())
    failures.remember("image", death())
    with pytest.raises(SourceQuarantined):
        failures.check("image")
    clock.now += 100
    assert refused(failures)


def test_an_image_that_never_failed_is_accepted(failures: FailureCache) -> None:
    assert not refused(failures)


def test_a_corrupt_image_is_refused_for_a_short_while(failures: FailureCache, clock: Clock) -> None:
    failures.remember("image", UndecodableSource("corrupt"))
    with pytest.raises(UndecodableSource, match="corrupt"):
        failures.check("image")
    clock.now += 10
    assert not refused(failures)


def test_an_image_that_crashes_workers_is_refused_for_twice_as_long_each_time(
    failures: FailureCache, clock: Clock
) -> None:
    for length_s in (60, 120, 240):
        failures.remember("image", SourceQuarantined("killer"))
        clock.now += length_s - 1
        assert refused(failures)
        clock.now += 1
        assert not refused(failures)


def test_the_longest_time_is_an_hour(failures: FailureCache, clock: Clock) -> None:
    for _ in range(100):
        failures.remember("image", SourceQuarantined("killer"))
    clock.now += 3600
    assert not refused(failures)


@pytest.mark.parametrize("error", [QueueFull("busy"), SourceUnavailable("no storage")])
def test_an_error_that_the_image_did_not_cause_is_not_remembered(
    failures: FailureCache, error: QueueFull | SourceUnavailable
) -> None:
    failures.remember("image", error)
    assert not refused(failures)


def test_other_images_are_accepted(failures: FailureCache) -> None:
    failures.remember("image", SourceQuarantined("killer"))
    assert not refused(failures, "another")


def test_an_hour_without_failures_resets_the_back_off(failures: FailureCache, clock: Clock) -> None:
    failures.remember("image", SourceQuarantined("killer"))
    clock.now += 60 + 3601
    failures.remember("image", SourceQuarantined("killer"))
    clock.now += 60
    assert not refused(failures)
