"""The circuit breaker: closed, open, half-open."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from proxy.runtime.circuit_breaker import CircuitBreaker
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("disk", pause_s=5, clock=clock)


def test_it_begins_closed(breaker: CircuitBreaker) -> None:
    assert not breaker.open
    assert not breaker.failing


def test_a_failure_opens_it_for_its_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("timeout")
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


def test_a_success_closes_it(breaker: CircuitBreaker) -> None:
    breaker.trip("timeout")
    breaker.succeed()
    assert not breaker.open
    assert not breaker.failing


def test_during_the_trial_after_the_pause_it_is_open(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("timeout")
    clock.now += 5
    with breaker.trial():
        assert breaker.open
    assert not breaker.open
    assert breaker.failing


def test_a_call_that_began_before_the_failure_does_not_end_the_trial(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    with ExitStack() as before:
        before.enter_context(breaker.trial())
        breaker.trip("timeout")
        clock.now += 5
        with breaker.trial():
            before.close()
            assert breaker.open
        assert not breaker.open


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
