"""The model of a check: verdicts, findings, areas of checks, and how errors become findings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from proxy.doctor.installation import Installation
from proxy.domain.errors import ConfigurationError, SmartserveError

_KIB = 1024
_MS = 1000.0


class Verdict(StrEnum):
    """Severity of a finding, in ascending order."""

    SKIPPED = "skipped"
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it; ``doctor --json`` prints these fields."""

    check: str
    """Empty until its area has run."""
    verdict: Verdict
    seen: str
    advice: str = ""
    """Empty if nothing is wrong."""
    alert: str = ""
    """The heading in deploy/OPERATING.md that explains the check."""


def ok(seen: str) -> Finding:
    """Return a finding that requires no action."""
    return Finding("", Verdict.OK, seen)


def warn(seen: str, advice: str, *, when: bool = True) -> Finding:
    """Return a finding about a part that works but needs attention; OK if ``when`` is false."""
    return Finding("", Verdict.WARN, seen, advice) if when else ok(seen)


def fail(seen: str, advice: str, *, when: bool = True) -> Finding:
    """Return a finding about a part that is broken or exposed; OK if ``when`` is false."""
    return Finding("", Verdict.FAIL, seen, advice) if when else ok(seen)


def skip(reason: str) -> Finding:
    """Return a finding for a check that was not made."""
    return Finding("", Verdict.SKIPPED, reason)


Findings = AsyncGenerator[Finding, None]


@dataclass(frozen=True, slots=True)
class Area:
    """Checks of one part of an installation.

    ``alerts`` maps the name of each check to its alert, in the order of ``inspect``, which yields
    one finding for each. If ``inspect`` ends early, the remaining checks are skipped.
    """

    alerts: Mapping[str, str]
    inspect: Callable[[Installation], Findings]

    async def run(self, installation: Installation) -> list[Finding]:
        """Run the checks in order; an error is reported by the check during which it occurred."""
        results: list[Finding] = []
        last = ""
        async with aclosing(self.inspect(installation)) as findings:
            for name, alert in self.alerts.items():
                try:
                    finding = await anext(findings, None)
                except (SmartserveError, OSError) as error:
                    # Other errors are bugs of the program, and need their traceback.
                    finding = finding_of(error)
                # A generator that has returned or raised is exhausted. The remaining checks would
                # report the same cause again.
                if finding is None:
                    finding = skip(f"see {last}")
                else:
                    last = name
                results.append(replace(finding, check=name, alert=alert))
        return results


def area(alerts: Mapping[str, str]) -> Callable[[Callable[[Installation], Findings]], Area]:
    """Return a decorator that makes an area of a generator of findings."""
    return partial(Area, alerts)


def finding_of(error: Exception) -> Finding:
    """Return the finding for an error raised by a check."""
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


def as_bytes(count: float) -> str:
    """Format a number of bytes: 512 B, 1.5 MiB, 10 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < _KIB:
            return f"{count:.3g} {unit}"
        count /= _KIB
    return f"{count:.4g} TiB"


def as_time(seconds: float) -> str:
    """Format a duration: 3.2 ms, 1.5 s, 2 h."""
    if abs(seconds) < 1:
        return f"{seconds * _MS:.3g} ms"
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if abs(seconds) < length:
            return f"{seconds:.3g} {unit}"
        seconds /= length
    return f"{seconds:.4g} days"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: 1 file, 3 files."""
    return f"{count} {noun if count == 1 else noun + 's'}"
