"""Quality metrics: arithmetic on facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.metadata.formats import SupportLevel
from proxy.metadata.quality import ReadingFacts, efficiency, quality_of

CLEAN = ReadingFacts(
    warnings=0,
    minor_warnings=0,
    errors=0,
    fallback=False,
    disagreements=(),
    damaged=False,
    extension="",
    format="jpeg",
)


def score(**facts: object) -> float:
    changed = replace(CLEAN, **facts)  # type: ignore[arg-type]
    metrics = quality_of(changed, completeness=1.0, level=SupportLevel.COMPREHENSIVE)
    total = sum(one["deduction"] for one in metrics["confidence_basis"])
    assert metrics["confidence_score"] == pytest.approx(max(0.0, 1 - total))
    assert len(metrics["recommended_actions"]) == len(metrics["confidence_basis"])
    return float(metrics["confidence_score"])


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, 1.0),
        ({"warnings": 1}, 0.9),
        ({"minor_warnings": 1}, 0.98),
        ({"warnings": 2, "minor_warnings": 3}, 0.74),
        ({"warnings": 50}, 0.7),
        ({"errors": 4}, 0.7),
        ({"fallback": True}, 0.7),
        ({"disagreements": ("size", "orientation")}, 0.8),
        ({"damaged": True}, 0.8),
        ({"extension": "png"}, 0.9),
        ({"warnings": 9, "errors": 1, "fallback": True, "damaged": True, "extension": "x"}, 0.0),
    ],
)
def test_the_score_is_one_minus_its_deductions(facts: dict[str, object], expected: float) -> None:
    assert score(**facts) == pytest.approx(expected)


def test_a_wrong_extension_is_explained() -> None:
    facts = replace(CLEAN, extension="png")
    metrics = quality_of(facts, completeness=None, level=SupportLevel.BASIC)
    assert metrics["recommended_actions"] == [
        "The extension says PNG, the content is JPEG: rename."
    ]
    assert metrics["extraction_completeness"] is None
    assert metrics["format_support_level"] == "basic"


def test_a_time_within_the_budget_is_fully_efficient() -> None:
    assert efficiency(0.1, 1_000_000) == 1
    assert efficiency(0.52, 1_000_000) == 0.5
    assert efficiency(0.5, 25_000_000) == 1
    assert efficiency(0.0, 0) == 1
