"""Flags for moderators: whole words of the positive prompt, generator, and high chaos."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata.container.result import ImageFacts, Walk
from proxy.metadata.generation.detect import detect
from proxy.metadata.moderation import moderate

TERMS = ("violence", "explicit", "illegal", "c++")


def flagged(**fields: Any) -> dict[str, Any]:
    nothing = Walk("png", 0, ImageFacts(), (), (), (), (), (), (), (), damaged=False)
    generation, _warnings = detect(nothing)
    return moderate({"ai_generation": {**generation, **fields}}, TERMS)


def test_nothing_found_gives_no_flag() -> None:
    assert flagged() == {"requiresReview": False, "flags": [], "confidence": 0}


def test_a_generator_is_a_flag_with_the_strength_of_its_evidence() -> None:
    assert flagged(source="comfyui", confidence=0.9) == {
        "requiresReview": False,
        "flags": [{"type": "ai_generated", "source": "comfyui", "confidence": 0.9}],
        "confidence": 0.9,
    }


@pytest.mark.parametrize(
    ("prompt", "terms"),
    [
        ("scenes of VIOLENCE, explicit", ["violence", "explicit"]),
        ("nonviolence and illegally inexplicit", []),
        ("written in c++", ["c++"]),
        ("", []),
        (None, []),
    ],
)
def test_a_term_is_found_as_a_whole_word_of_the_prompt(
    prompt: str | None, terms: list[str]
) -> None:
    found = flagged(prompt=prompt, negativePrompt="illegal, violence")
    assert found["flags"] == [
        {"type": "concerning_prompt", "term": term, "confidence": 0.8, "basis": "rule"}
        for term in terms
    ]
    assert found["requiresReview"] is bool(terms)
    assert found["confidence"] == (0.8 if terms else 0)


def test_chaos_above_80_is_a_flag_that_needs_no_review() -> None:
    assert flagged(mjChaos=80)["flags"] == []
    assert flagged(mjChaos=81) == {
        "requiresReview": False,
        "flags": [{"type": "high_chaos", "value": 81, "confidence": 0.6, "basis": "rule"}],
        "confidence": 0.6,
    }
