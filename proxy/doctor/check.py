"""The model of a check: verdicts, findings, areas of checks, and how errors become findings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial

from proxy.doctor.installation import Installation
from proxy.domain.errors import DatabaseUnavailable, SmartserveError

ALERTS: Mapping[str, tuple[str, ...]] = {
    "The server is not ready": ("server", "server readiness"),
    "Workers are missing": ("worker",),
    "The sandbox has a gap": ("worker sandbox",),
    "The rendition disk fails": ("renditions", "renditions disk space"),
    "The database is away": ("database", "database permissions"),
    "Originals cannot be opened": (
        "originals",
        "newest originals",
        "http originals",
        "image original",
    ),
    "Redis fails": ("redis",),
    "The bucket of renditions fails": ("object storage",),
    "Fallbacks replace missing originals": ("served formats",),
    "Somebody guesses keys": ("key files", "proxy closed", "proxy forwarded"),
    "Uploads are stuck": ("upload queue",),
    "The main API cannot be asked": ("main API",),
    "Metadata engines are down": ("metadata engine", "metadata sandbox", "metadata folder"),
}
"""Headings in deploy/OPERATING.md, and the checks that each one explains."""
_ALERT_OF = {check: alert for alert, checks in ALERTS.items() for check in checks}
_KIB = 1024
_MS = 1000.0
_MINUTE_S = 60.0


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
    """The key of `ALERTS` that explains the check, or an empty string."""


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

    ``inspect`` yields one finding for each name, in their order. If it ends early, the remaining
    checks are skipped.
    """

    names: tuple[str, ...]
    inspect: Callable[[Installation], Findings]

    async def run(self, installation: Installation) -> list[Finding]:
        """Run the checks in order; an error is reported by the check during which it occurred."""
        results: list[Finding] = []
        last = ""
        async with aclosing(self.inspect(installation)) as findings:
            for name in self.names:
                try:
                    finding = await anext(findings, None)
                except (SmartserveError, OSError) as error:
                    # Other errors are bugs of the program, and need their traceback.
                    advice = "see the checks of the settings and the database, and the server's log"
                    finding = fail(reason_of(error), advice)
                # A generator that has returned or raised is exhausted. The remaining checks would
                # report the same cause again.
                if finding is None:
                    finding = skip(f"see {last}")
                else:
                    last = name
                results.append(replace(finding, check=name, alert=_ALERT_OF.get(name, "")))
        return results


def area(*names: str) -> Callable[[Callable[[Installation], Findings]], Area]:
    """Return a decorator that makes an area of a generator of findings."""
    return partial(Area, names)


def reason_of(error: BaseException) -> str:
    """Return an error and its cause as a short text."""
    # str() of an OSError would add the number and the path, which the finding names already.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, DatabaseUnavailable):
        return error.reason or error.detail
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
    """Format a duration: 3.2 ms, 1.5 s, and in hours, minutes and seconds 2:00:00."""
    if seconds < 1:
        return f"{seconds * _MS:.3g} ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.3g} s"
    return str(timedelta(seconds=round(seconds)))


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: 1 file, 3 files."""
    return f"{count} {noun if count == 1 else noun + 's'}"
