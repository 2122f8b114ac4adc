"""Builds paths below the storage root; pure functions."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from proxy.domain.ingest_item import LeasedItem

HASH_DIGITS = 16

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_STEM = 60


def readable(name: str) -> str:
    """Return a file's name without its suffix in ASCII letters, digits, dots and dashes."""
    stem = PurePosixPath(name).stem
    # NFKD separates letters from accents, which are then dropped: ä becomes a.
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return _UNREADABLE.sub("-", plain).strip("-.")[:_MAX_STEM] or "picture"


def original_path(item: LeasedItem, content_hash: str, source_type: str) -> str:
    """Return ``bulk/2025-01-15/<id>-<name>-<hash>.<type>``; equal for each attempt."""
    return f"bulk/{item.day.isoformat()}/{_name(item, content_hash)}.{source_type}"


def library_path(item: LeasedItem, content_hash: str, suffix: str) -> str:
    """Return ``library/user_4/logo/img/<id>-<name>-<hash>.<suffix>``."""
    upload = item.upload
    folder = f"library/user_{upload.user_id}/{upload.data_type}/img"
    return f"{folder}/{_name(item, content_hash)}.{suffix}"


def _name(item: LeasedItem, content_hash: str) -> str:
    # The id separates uploads of the same name, the hash the contents of one upload.
    name = readable(item.upload.original_name or "")
    return f"{item.upload.id}-{name}-{content_hash[:HASH_DIGITS]}"
