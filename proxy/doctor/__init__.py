"""The doctor: looks at a running installation, and says of each part how it is and what to do.

An area is looked at once, which gives a value; its checks are pure functions of that value. What
keeps a look from being taken is what the area's first check says, and the others are skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from proxy.domain.errors import ConfigurationError, SmartserveError

F = TypeVar("F")


class Verdict(StrEnum):
    """How a part is; the worst last."""

    SKIPPED = "skipped"
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How a part is: what was seen there, and what to do where it is not well."""

    verdict: Verdict
    seen: str
    advice: str = ""


def well(seen: str) -> Diagnosis:
    """Nothing has to be done."""
    return Diagnosis(Verdict.OK, seen)


def warned(seen: str, advice: str) -> Diagnosis:
    """It works, and should be looked after by daylight."""
    return Diagnosis(Verdict.WARN, seen, advice)


def failed(seen: str, advice: str) -> Diagnosis:
    """It does not work, or strangers can reach what is not for them."""
    return Diagnosis(Verdict.FAIL, seen, advice)


def skipped(reason: str) -> Diagnosis:
    """It was not looked at."""
    return Diagnosis(Verdict.SKIPPED, reason)


def worst(first: Diagnosis, *others: Diagnosis) -> Diagnosis:
    """The first of the worst."""
    order = list(Verdict)
    return max((first, *others), key=lambda one: order.index(one.verdict))


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    check: str
    diagnosis: Diagnosis
    alert: str = ""
    """The heading in deploy/OPERATING.md that has more to say about it."""


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """One question that is asked of what was seen in an area."""

    name: str
    judge: Callable[[F], Diagnosis]
    alert: str = ""


class CheckBlocked(Exception):
    """A look cannot be taken; the diagnosis says why, and what to do about it."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        """Keep the diagnosis."""
        super().__init__(diagnosis.seen)
        self.diagnosis = diagnosis


async def looked(look: Awaitable[F]) -> F | CheckBlocked:
    """What a look gives, or what kept it from being taken."""
    try:
        return await look
    except CheckBlocked as obstacle:
        return obstacle
    except ConfigurationError as error:
        return CheckBlocked(failed("; ".join(error.faults), "mend the settings that are named"))
    except (SmartserveError, OSError, TimeoutError) as error:
        return CheckBlocked(failed(reason_of(error), "the log of the server may say more"))


def judged(checks: Sequence[Check[F]], seen: F | CheckBlocked) -> Iterator[CheckResult]:
    """What each check of an area says."""
    if not isinstance(seen, CheckBlocked):
        for check in checks:
            yield CheckResult(check.name, check.judge(seen), check.alert)
        return
    first, *others = checks
    yield CheckResult(first.name, seen.diagnosis, first.alert)
    for check in others:
        yield CheckResult(check.name, skipped(f"see {first.name}"))


def reason_of(error: BaseException) -> str:
    """An error in a few words: of the system's own, its text; of ours, with what is behind it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = error.__cause__
    if cause is None or not isinstance(error, SmartserveError):
        return str(error) or type(error).__name__
    return f"{error.detail} ({reason_of(cause)})"
