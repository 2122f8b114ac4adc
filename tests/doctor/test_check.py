"""The model: findings of areas, how errors become findings, and numbers as text."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from proxy.doctor.check import (
    Area,
    Finding,
    Verdict,
    area,
    as_bytes,
    as_time,
    counted,
    fail,
    ok,
    reason_of,
    warn,
)
from proxy.doctor.installation import Installation
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable, StorageError

NOWHERE = cast("Installation", None)


def yielding(*findings: Finding | Exception) -> Area:
    """Return an area of three checks that yields these findings, or raises an error."""

    async def inspect(_installation: Installation) -> AsyncGenerator[Finding, Any]:
        for one in findings:
            if isinstance(one, Exception):
                raise one
            yield one

    return area("worker", "second", "third")(inspect)


async def test_each_check_reports_its_finding_and_its_alert() -> None:
    first, second, third = await yielding(ok("1"), warn("2", "lower it"), ok("3")).run(NOWHERE)
    assert first == Finding("worker", Verdict.OK, "1", alert="Workers are missing")
    assert second == Finding("second", Verdict.WARN, "2", "lower it")
    assert third == Finding("third", Verdict.OK, "3")


async def test_checks_after_the_end_of_an_area_are_skipped() -> None:
    first, *others = await yielding(fail("away", "start it")).run(NOWHERE)
    assert first == Finding("worker", Verdict.FAIL, "away", "start it", "Workers are missing")
    assert [(one.verdict, one.seen) for one in others] == [(Verdict.SKIPPED, "see worker")] * 2


async def test_an_error_is_reported_by_the_check_during_which_it_occurred() -> None:
    found = await yielding(ok(""), DatabaseUnavailable("away")).run(NOWHERE)
    assert [one.verdict for one in found] == [Verdict.OK, Verdict.FAIL, Verdict.SKIPPED]
    assert (found[1].seen, found[2].seen) == ("away", "see second")


async def test_a_bug_is_not_a_finding() -> None:
    with pytest.raises(KeyError):
        await yielding(KeyError("bug")).run(NOWHERE)


async def test_an_area_is_closed_after_its_last_check() -> None:
    closed = []

    async def inspect(_installation: Installation) -> AsyncGenerator[Finding, Any]:
        try:
            yield ok("")
        finally:
            closed.append(True)

    await area("only")(inspect).run(NOWHERE)
    assert closed == [True]


def test_a_finding_is_ok_unless_its_condition_is_true() -> None:
    assert warn("3 s", "wait", when=False) == fail("3 s", "wait", when=False) == ok("3 s")
    assert warn("3 s", "wait", when=True).verdict is Verdict.WARN


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (TimeoutError(), "no answer in time"),
        (DatabaseUnavailable("away"), "away"),
        (ConfigurationError(["a: wrong", "b: wrong"]), "a: wrong\nb: wrong"),
    ],
)
async def test_an_error_becomes_a_failed_finding_with_advice(error: Exception, text: str) -> None:
    found, *_ = await yielding(error).run(NOWHERE)
    assert (found.verdict, found.seen) == (Verdict.FAIL, text)
    assert "the server's log" in found.advice


def test_the_reason_includes_the_cause() -> None:
    error = StorageError("cannot be written")
    error.__cause__ = OSError(28, "No space left on device")
    assert reason_of(error) == "cannot be written (No space left on device)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (as_bytes(0), "0 B"),
        (as_bytes(1536), "1.5 KiB"),
        (as_bytes(10 * 1024**3), "10 GiB"),
        (as_bytes(3 * 1024**4), "3 TiB"),
        (as_time(0.00321), "3.21 ms"),
        (as_time(90), "0:01:30"),
        (as_time(7200), "2:00:00"),
        (as_time(86400 * 3), "3 days, 0:00:00"),
        (counted(1, "file"), "1 file"),
        (counted(2, "file"), "2 files"),
    ],
)
def test_numbers_have_units(text: str, expected: str) -> None:
    assert text == expected
