"""The model: verdicts of checks, and how errors become findings."""

from __future__ import annotations

import threading

import pytest

from proxy.doctor.check import (
    Check,
    CheckBlocked,
    Finding,
    Verdict,
    fail,
    finding_of,
    ok,
    reason_of,
    run_checks,
    skip,
    warn,
)
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable, StorageError


async def seven() -> int:
    return 7


async def test_each_check_reports_its_finding_and_its_alert() -> None:
    checks: tuple[Check[int], ...] = (
        Check("first", lambda number: ok(f"{number}"), "An alert"),
        Check("second", lambda number: warn(f"{number}", "lower it")),
    )
    first, second = await run_checks(seven(), checks)
    assert (first.check, first.finding, first.alert) == ("first", ok("7"), "An alert")
    assert (second.check, second.finding.verdict) == ("second", Verdict.WARN)


async def test_a_check_may_be_asynchronous() -> None:
    async def check(number: int) -> Finding:
        return ok(str(number))

    (result,) = await run_checks(seven(), (Check("one", check),))
    assert result.finding == ok("7")


async def test_a_synchronous_check_does_not_block_the_event_loop() -> None:
    def check(_number: int) -> Finding:
        return ok(threading.current_thread().name)

    (result,) = await run_checks(seven(), (Check("one", check),))
    assert result.finding.text != threading.current_thread().name


async def test_the_first_check_reports_why_an_area_cannot_be_inspected() -> None:
    async def inspect() -> int:
        raise CheckBlocked(fail("away", "start it"))

    checks: tuple[Check[int], ...] = (
        Check("first", lambda _: ok("")),
        Check("second", lambda _: ok("")),
    )
    first, second = await run_checks(inspect(), checks)
    assert first.finding == fail("away", "start it")
    assert second.finding == skip("see first")


async def test_checks_after_an_error_are_skipped() -> None:
    def raising(_number: int) -> Finding:
        raise DatabaseUnavailable("away")

    checks: tuple[Check[int], ...] = (
        Check("first", lambda _: ok("")),
        Check("second", raising),
        Check("third", lambda _: ok("")),
    )
    verdicts = [one.finding.verdict for one in await run_checks(seven(), checks)]
    assert verdicts == [Verdict.OK, Verdict.FAIL, Verdict.SKIPPED]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (TimeoutError(), "no answer in time"),
        (DatabaseUnavailable("away"), "away"),
        (ConfigurationError(["a: wrong", "b: wrong"]), "a: wrong; b: wrong"),
        (CheckBlocked(fail("blocked", "do")), "blocked"),
    ],
)
def test_an_error_becomes_a_failed_finding_with_advice(error: Exception, text: str) -> None:
    found = finding_of(error)
    assert (found.verdict, found.text) == (Verdict.FAIL, text)
    assert found.advice


def test_the_reason_includes_the_cause() -> None:
    error = StorageError("cannot be written")
    error.__cause__ = OSError(28, "No space left on device")
    assert reason_of(error) == "cannot be written (No space left on device)"
