"""The model of a check: its verdict, its finding, and how errors become findings."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from proxy.domain.errors import ConfigurationError, SmartserveError

S = TypeVar("S")


class Verdict(StrEnum):
    """Severity of a finding, in ascending order."""

    SKIPPED = "skipped"
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it; ``advice`` is empty if nothing is wrong."""

    verdict: Verdict
    text: str
    advice: str = ""


def ok(text: str) -> Finding:
    """Return a finding that requires no action."""
    return Finding(Verdict.OK, text)


def warn(text: str, advice: str) -> Finding:
    """Return a finding about a part that works but needs attention."""
    return Finding(Verdict.WARN, text, advice)


def fail(text: str, advice: str) -> Finding:
    """Return a finding about a part that does not work, or that exposes private data."""
    return Finding(Verdict.FAIL, text, advice)


def skip(reason: str) -> Finding:
    """Return a finding for a check that was not made."""
    return Finding(Verdict.SKIPPED, reason)


class CheckBlocked(Exception):
    """Raised if nothing in an area can be checked; its remaining checks are skipped."""

    def __init__(self, finding: Finding) -> None:
        """Store the finding to report for the check that raised it."""
        super().__init__(finding.text)
        self.finding = finding


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One check of a subject. ``alert`` names the heading in deploy/OPERATING.md that explains it.

    A synchronous ``run`` may block: it is called in a thread.
    """

    name: str
    run: Callable[[S], Finding | Awaitable[Finding]]
    alert: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The finding of one check."""

    check: str
    finding: Finding
    alert: str = ""


async def run_checks(
    subject: Awaitable[S], checks: tuple[Check[S], ...]
) -> tuple[CheckResult, ...]:
    """Run the checks of one area in order.

    The first error is reported by the check during which it occurred, and the remaining checks are
    skipped: they would report the same cause again.
    """
    results: list[CheckResult] = []
    awaited: S | None = None
    failed_check = ""
    for check in checks:
        if failed_check:
            finding = skip(f"see {failed_check}")
        else:
            try:
                if awaited is None:
                    awaited = await subject
                finding = await _run(check, awaited)
            except (CheckBlocked, SmartserveError, OSError, TimeoutError) as error:
                # Other errors are bugs of the program, and need their traceback.
                finding, failed_check = finding_of(error), check.name
        results.append(CheckResult(check.name, finding, check.alert))
    return tuple(results)


async def _run(check: Check[S], subject: S) -> Finding:
    # For an asynchronous check the thread only creates the coroutine, which runs here.
    found = await asyncio.to_thread(check.run, subject)
    return await found if inspect.isawaitable(found) else found


def finding_of(error: Exception) -> Finding:
    """Return the finding for an error raised by a check."""
    if isinstance(error, CheckBlocked):
        return error.finding
    if isinstance(error, ConfigurationError):
        return fail("; ".join(error.faults), "correct the settings that are named")
    return fail(reason_of(error), "see the server's log")


def reason_of(error: BaseException) -> str:
    """Return an error and its cause as a short text."""
    # str() of an OSError would add the number and the path, which the finding names already.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = error.__cause__
    # The public sentence of our errors hides the cause from clients; the operator needs it.
    if cause is None or not isinstance(error, SmartserveError):
        return str(error) or type(error).__name__
    return f"{error.detail} ({reason_of(cause)})"
