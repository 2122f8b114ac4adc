"""Descriptions: a picture's portrait as JSON, with the addresses of what is served of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.domain.formats import NAMES, Format
from proxy.domain.geometry import SizeSpec, plan_geometry
from proxy.domain.media import MediaFacts
from proxy.domain.query import WIDTHS
from proxy.serving.image_info import ImageInfo

_VERSION_DIGITS = 16
_SMALLEST = 64
"""Narrower rungs are for icons: no page asks for them by ``srcset``."""

Ready = Mapping[str, Mapping[Format, bool]]


def version_of(facts: MediaFacts) -> str:
    """The ``v`` token: another one whenever the bytes of the picture are others."""
    return facts.content_hash[:_VERSION_DIGITS]


def ladder(facts: MediaFacts, *, smallest: int = _SMALLEST) -> list[tuple[int, int]]:
    """The rungs that are worth asking for, each with the width that the picture has there.

    The last one gives the picture's own width, where the ladder reaches as far.
    """
    rungs: dict[int, int] = {}
    for rung in WIDTHS:
        width = plan_geometry(SizeSpec("", rung, None), facts).width
        if width not in rungs:
            rungs[width] = rung
    worth = {width: rung for width, rung in rungs.items() if width >= smallest}
    return [(rung, width) for width, rung in (worth or rungs).items()]


def srcset(media_id: int, facts: MediaFacts, fmt: str | None = None) -> str:
    """A ``srcset`` over the ladder; without a format each browser gets the best that it takes."""
    tail = f"&v={version_of(facts)}" if fmt is None else f"&format={fmt}&v={version_of(facts)}"
    return ", ".join(f"/serve/{media_id}?w={rung}{tail} {width}w" for rung, width in ladder(facts))


def sizes_advice(facts: MediaFacts) -> str:
    """What to write into ``sizes``: as wide as the window, and never wider than the picture.

    ``auto`` has browsers that know it measure the box of a lazy picture themselves.
    """
    width = ladder(facts)[-1][1]
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
    return {
        "id": media_id,
        "version": version_of(facts),
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
        "urls": {name: _named(media_id, facts, name) for name in sizes},
        "dimensions": {name: _dimensions(size, facts) for name, size in sizes.items()},
        "srcset": {
            "auto": srcset(media_id, facts),
            **{fmt.value: srcset(media_id, facts, fmt) for fmt in formats if fmt in NAMES.values()},
        },
        "sizes": sizes_advice(facts),
        "formats": {"served": list(formats), "ready": _told(ready)},
        "links": _links(media_id),
    }


def _named(media_id: int, facts: MediaFacts, name: str) -> str:
    return f"/serve/{media_id}?size={name}&v={version_of(facts)}"


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
        "self": f"/info/{media_id}",
        "picture": f"/serve/{media_id}",
        "component": "/static/smart-image.js",
        "oembed": "/oembed",
    }
