"""Tags of a media row from its AI generation, as they are stored and searched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.metadata.generation.detect import is_generated

MAX_LENGTH = 191
"""Characters of a tag; the length of its column."""
HIGH_QUALITY = "high-quality"
_HIGH_QUALITY_FROM = 2
_ALIAS = re.compile(r"(ai|style|model)-(.+)", re.DOTALL)
_COLON_FORM = {"ai": "generator", "style": "style", "model": "model"}


def tags_of(generation: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tags of an object ``ai_generation``, without repetition."""
    return tuple(dict.fromkeys(tag[:MAX_LENGTH] for tag in _tags(generation)))


def _tags(generation: Mapping[str, Any]) -> Iterator[str]:
    if is_generated(generation):
        yield f"generator:{generation['source']}"
    if version := generation.get("mjVersion"):
        yield f"midjourney:v{version}"
    if style := generation.get("mjStyle"):
        yield f"style:{style}"
    if checkpoint := generation.get("checkpoint"):
        yield f"model:{checkpoint.lower()}"
    # The render time that was paid for, which says nothing about the quality of the image.
    if (generation.get("mjQuality") or 0) >= _HIGH_QUALITY_FROM:
        yield HIGH_QUALITY


def canonical(tag: str) -> str:
    """Return the stored form of a tag: ``ai-x`` is an alias of ``generator:x``."""
    stripped = tag.strip()
    if match := _ALIAS.fullmatch(stripped):
        stripped = f"{_COLON_FORM[match[1]]}:{match[2]}"
    return stripped[:MAX_LENGTH]
