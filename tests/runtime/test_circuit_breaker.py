"""The circuit breaker: closed, open, half-open."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from proxy.runtime.circuit_breaker import CircuitBreaker


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("disk", pause_s=5, clock=clock)


def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(OSError, match="dead"), breaker.attempt(OSError):
        raise OSError("dead")


def test_it_begins_closed(breaker: CircuitBreaker) -> None:
    assert not breaker.open
    assert not breaker.failing


def test_a_failure_opens_it_for_its_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker)
    assert breaker.open
    assert breaker.open_until == 105
    clock.now += 5
    assert not breaker.open
    assert breaker.failing


def test_each_failure_extends_the_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("timeout")
    clock.now += 4
    breaker.trip("timeout")
    clock.now += 4
    assert breaker.open


def test_a_success_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 5
    with breaker.attempt(OSError):
        pass
    assert not breaker.open
    assert not breaker.failing


def test_one_attempt_at_a_time_is_let_through_after_the_pause(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker)
    clock.now += 5
    with breaker.attempt(OSError):
        assert breaker.open
    assert not breaker.open


def test_a_cancelled_attempt_lets_the_next_one_through(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker)
    clock.now += 5
    with pytest.raises(asyncio.CancelledError), breaker.attempt(OSError):
        raise asyncio.CancelledError
    assert not breaker.open
    assert breaker.failing


def test_another_error_is_no_failure(breaker: CircuitBreaker) -> None:
    with pytest.raises(KeyError), breaker.attempt(OSError):
        raise KeyError
    assert not breaker.failing


def test_an_attempt_from_before_the_failure_does_not_end_the_trial(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    early = breaker.attempt(OSError)
    early.__enter__()
    fail(breaker)
    clock.now += 5
    with breaker.attempt(OSError):
        assert early.__exit__(KeyError, KeyError(), None) is not True
        assert breaker.open


def test_only_the_change_of_state_is_logged(breaker: CircuitBreaker) -> None:
    with capture_logs() as logs:
        breaker.trip("timeout")
        breaker.trip("timeout")
        breaker.succeed()
        breaker.succeed()
    assert [(line["event"], line["circuit"]) for line in logs] == [
        ("circuit_opened", "disk"),
        ("circuit_closed", "disk"),
    ]
