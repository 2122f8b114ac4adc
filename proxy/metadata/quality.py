"""Quality metrics: how well a file was read, computed from facts that are returned beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proxy.metadata.formats import SupportLevel

_WARNING, _MINOR_WARNING, _MAX_WARNINGS = 0.1, 0.02, 0.3
_ERROR = 0.3
_FALLBACK = 0.3
_DISAGREEMENT = 0.2
_DAMAGE = 0.2
_EXTENSION = 0.1
_BUDGET_S, _BUDGET_S_PER_MB = 0.25, 0.01
_MB = 1_000_000

_ACTIONS = {
    "warnings": "Read the warnings: some metadata may be missing or wrong.",
    "error": "The engine could not read the file completely: check it with another program.",
    "fallback": (
        "Only basic metadata was read: install exiftool, or try again if the server was busy."
    ),
    "disagreement": (
        "The header and the metadata of the file disagree: an editor may have left old metadata."
    ),
    "damaged": "The file is damaged or truncated: obtain a new copy.",
}
"""Recommended actions by the deduction that they belong to."""


@dataclass(frozen=True, slots=True)
class ReadingFacts:
    """What decides the confidence in a reading."""

    warnings: int
    minor_warnings: int
    errors: int
    fallback: bool
    disagreements: tuple[str, ...]
    damaged: bool
    extension: str
    """The extension if it is not one of the format, else empty."""
    format: str


def _deductions(facts: ReadingFacts) -> Iterator[tuple[str, float, str]]:
    """Yield key, amount and reason of each deduction from 1."""
    if facts.warnings or facts.minor_warnings:
        amount = _WARNING * facts.warnings + _MINOR_WARNING * facts.minor_warnings
        count = facts.warnings + facts.minor_warnings
        text = f"{count} warning{'s' if count > 1 else ''}"
        if facts.minor_warnings:
            text += f", {facts.minor_warnings} of them minor"
        yield "warnings", min(_MAX_WARNINGS, amount), text
    if facts.errors:
        yield "error", _ERROR, "the engine reported an error"
    if facts.fallback:
        yield "fallback", _FALLBACK, "the fallback engine read the file"
    if facts.disagreements:
        what = " and ".join(facts.disagreements)
        yield "disagreement", _DISAGREEMENT, f"walk and engine disagree on the {what}"
    if facts.damaged:
        yield "damaged", _DAMAGE, "the file is damaged"
    if facts.extension:
        yield "extension", _EXTENSION, "the extension is not that of the content"


def quality_of(
    facts: ReadingFacts, *, completeness: float | None, level: SupportLevel
) -> dict[str, Any]:
    """Return the metrics, without `processing_efficiency`, which the server measures."""
    found = list(_deductions(facts))
    score = max(0.0, 1 - sum(amount for _, amount, _ in found))
    return {
        "confidence_score": round(score, 2),
        "confidence_basis": [
            {"deduction": round(amount, 2), "reason": reason} for _, amount, reason in found
        ],
        "extraction_completeness": completeness,
        "format_support_level": level.value,
        "enhanced_extraction": not facts.fallback,
        "recommended_actions": [_action(key, facts) for key, _, _ in found],
    }


def _action(key: str, facts: ReadingFacts) -> str:
    if key == "extension":
        content = facts.format.upper()
        return f"The extension says {facts.extension.upper()}, the content is {content}: rename."
    return _ACTIONS[key]


def efficiency(elapsed_s: float, byte_size: int) -> float:
    """Return the part of the measured time that was budgeted, at most 1."""
    budget_s = _BUDGET_S + _BUDGET_S_PER_MB * byte_size / _MB
    return round(min(1.0, budget_s / elapsed_s), 4) if elapsed_s > 0 else 1.0
