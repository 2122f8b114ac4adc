"""Flags for moderators: what a file says about its generation, by rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.metadata.generation.detect import is_generated

_TERM_CONFIDENCE, _CHAOS_CONFIDENCE = 0.8, 0.6
_HIGH_CHAOS = 80


def moderate(metadata: Mapping[str, Any], terms: Sequence[str]) -> dict[str, Any]:
    """Return ``requiresReview``, ``flags`` and the highest ``confidence`` of these, 0 without one.

    A term must be a whole word of the positive prompt, in any letter case. That a file has no flag
    says nothing about its pixels. Fixed figures are marked ``basis: "rule"``.
    """
    generation = metadata["ai_generation"]
    flags: list[dict[str, Any]] = []
    if is_generated(generation):
        confidence = generation["confidence"]
        flags.append(
            {"type": "ai_generated", "source": generation["source"], "confidence": confidence}
        )
    found = [term for term in terms if _has_word(generation["prompt"] or "", term)]
    flags += [
        {
            "type": "concerning_prompt",
            "term": term,
            "confidence": _TERM_CONFIDENCE,
            "basis": "rule",
        }
        for term in found
    ]
    chaos = generation["mjChaos"]
    if chaos is not None and chaos > _HIGH_CHAOS:
        flags.append(
            {"type": "high_chaos", "value": chaos, "confidence": _CHAOS_CONFIDENCE, "basis": "rule"}
        )
    return {
        "requiresReview": bool(found),
        "flags": flags,
        "confidence": max((flag["confidence"] for flag in flags), default=0),
    }


def _has_word(prompt: str, term: str) -> bool:
    # Not \b, which needs a letter at the ends of the term.
    return bool(re.search(rf"(?<!\w){re.escape(term.lower())}(?!\w)", prompt.lower()))
