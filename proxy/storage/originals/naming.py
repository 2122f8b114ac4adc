"""Names of files below the storage root: readable, and never taken twice; pure."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from proxy.domain.ingest_item import LeasedItem

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 60
HASH_DIGITS = 16


def readable(name: str) -> str:
    """What can be read of a file's name, without its suffix, in plain characters."""
    stem = PurePosixPath(name).stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return _UNREADABLE.sub("-", plain).strip("-.")[:_MAX_NAME] or "picture"


def original_path(item: LeasedItem, content_hash: str, source_type: str) -> str:
    """``bulk/2025-01-15/<id>-<name>-<hash>.<type>``: the same whenever it is filed again."""
    return f"bulk/{item.day.isoformat()}/{_name(item, content_hash)}.{source_type}"


def library_path(item: LeasedItem, content_hash: str, suffix: str) -> str:
    """``library/user_4/logo/img/<id>-<name>-<hash>.<suffix>``."""
    upload = item.upload
    folder = f"library/user_{upload.user_id}/{upload.data_type}/img"
    return f"{folder}/{_name(item, content_hash)}.{suffix}"


def _name(item: LeasedItem, content_hash: str) -> str:
    """Two uploads may have one name, and one picture may be uploaded twice."""
    name = readable(item.upload.original_name or "")
    return f"{item.upload.id}-{name}-{content_hash[:HASH_DIGITS]}"
