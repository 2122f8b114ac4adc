"""Metadata objects as an extraction returns them, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.generations import of_texts


def metadata_of(texts: Mapping[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """Return the metadata object of a PNG with texts, whose other members are ``members``."""
    return {
        "schema": 1,
        "format": "png",
        "mime_type": "image/png",
        "sha256": "ab" * 32,
        "width": 8,
        "height": 6,
        "gps": None,
        "groups": {},
        "text": [],
        "ai_generation": of_texts(texts or {}),
        "c2pa": None,
        "withheld": None,
        "engine": {"name": "exiftool", "version": "13.59", "walk": "1", "c2pa": None},
        **members,
    }
