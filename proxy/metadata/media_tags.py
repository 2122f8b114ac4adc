"""Tags of a media row from its AI generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.metadata.generation.detect import is_generated
from proxy.storage.database.metadata_tables import MAX_TAG

HIGH_QUALITY = "high-quality"
_HIGH_QUALITY_FROM = 2


def tags_of(generation: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tags of an object ``ai_generation``, without repetition."""
    return tuple(dict.fromkeys(tag[:MAX_TAG] for tag in _tags(generation)))


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
