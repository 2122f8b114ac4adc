"""Descriptions: a picture's portrait as JSON, with the addresses of what is served of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.domain.formats import NAMES, Format
from proxy.domain.geometry import SizeSpec, plan_geometry
from proxy.domain.media import MediaFacts
from proxy.domain.urls import (
    COMPONENT_PATH,
    OEMBED_PATH,
    image_url,
    info_url,
    srcset,
    srcset_widths,
    version_of,
)
from proxy.serving.image_info import ImageInfo

Ready = Mapping[str, Mapping[Format, bool]]


def sizes_advice(facts: MediaFacts) -> str:
    """What to write into ``sizes``: as wide as the window, and never wider than the picture.

    ``auto`` has browsers that know it measure the box of a lazy picture themselves.
    """
    width = srcset_widths(facts)[-1][1]
    return f"auto, (min-width: {width}px) {width}px, 100vw"


def describe_picture(
    media_id: int,
    portrait: ImageInfo,
    *,
    sizes: Mapping[str, SizeSpec],
    formats: tuple[Format, ...],
    ready: Ready,
) -> dict[str, Any]:
    """The JSON of ``GET /info/{id}``."""
    facts, looks, told = portrait.facts, portrait.looks, portrait.told
    version = version_of(facts)
    return {
        "id": media_id,
        "version": version,
        "width": facts.width,
        "height": facts.height,
        "ratio": round(facts.width / facts.height, 4),
        "animated": facts.animated,
        "transparent": facts.has_alpha,
        "placeholders": {
            "thumbhash": looks.thumbhash,
            "blurhash": looks.blurhash,
            "data_uri": looks.data_uri,
        },
        "dominant_colors": list(looks.dominant_colours),
        "alt": told.alt,
        "analysis": {
            "kind": looks.kind,
            "style": told.style,
            "medium": told.medium,
            "quality_score": looks.quality_score,
            "mood_keywords": list(told.mood_keywords or looks.mood_keywords),
        },
        "urls": {name: image_url(media_id, size=name, version=version) for name in sizes},
        "dimensions": {name: _dimensions(size, facts) for name, size in sizes.items()},
        "srcset": {
            "auto": srcset(media_id, facts),
            **{fmt.value: srcset(media_id, facts, fmt) for fmt in formats if fmt in NAMES.values()},
        },
        "sizes": sizes_advice(facts),
        "formats": {"served": list(formats), "ready": _told(ready)},
        "links": _links(media_id),
    }


def _dimensions(size: SizeSpec, facts: MediaFacts) -> dict[str, int]:
    geometry = plan_geometry(size, facts)
    return {"width": geometry.width, "height": geometry.height}


def _told(ready: Ready) -> dict[str, dict[str, str]]:
    return {
        name: {fmt.value: "final" if final else "draft" for fmt, final in formats.items()}
        for name, formats in ready.items()
    }


def _links(media_id: int) -> dict[str, str]:
    return {
        "self": info_url(media_id),
        "picture": image_url(media_id),
        "component": COMPONENT_PATH,
        "oembed": OEMBED_PATH,
    }
