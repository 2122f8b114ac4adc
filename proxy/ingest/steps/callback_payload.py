"""The rich payload of the completion callback, section 12 of the requirements document; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.domain.analysis import public
from proxy.domain.formats import Format
from proxy.domain.media import DataType, Media, MediaFacts
from proxy.domain.urls import image_url
from proxy.storage.database.analysis_repository import StoredAnalysis


def payload_of(
    media: Media,
    facts: MediaFacts,
    *,
    base: str,
    formats: Iterable[Format],
    stored: StoredAnalysis | None,
) -> dict[str, Any]:
    """What the main API is told; ``media_id`` is all of it that its simple form needs.

    ``base`` is where media are served, ``formats`` those that are; ``stored`` is None where the
    analysis has not been completed. What is not known is null.
    """
    served = set(formats)
    return {
        "media_id": str(media.id),
        "permanent_url": image_url(media.id, base=base),
        "processing_complete": True,
        "ai_enhanced": stored is not None,
        "formats_available": [str(fmt) for fmt in Format if fmt in served],
        "ai_analysis": _analysis(media, facts, stored),
    }


def _analysis(media: Media, facts: MediaFacts, stored: StoredAnalysis | None) -> dict[str, Any]:
    logo, sites = media.data_type == DataType.LOGO, media.data_type == DataType.SITES
    found = {} if stored is None else public(stored.columns, stored.own)
    names = ("style", "medium", "quality_score", "mood_keywords")
    return {
        **{name: found.get(name) for name in names},
        "brand_colors": found.get("brand_colors") if logo else None,
        "site_context": found.get("site_context") if sites else None,
        "background_removed": facts.flat_background if logo else None,
    }
