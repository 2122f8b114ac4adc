"""Builds and parses paths below the storage root; pure functions."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import PurePosixPath

from proxy.domain.errors import SourceMissing
from proxy.domain.ingest_item import LeasedItem

MISSING = "the original of this image is missing"
"""The message to clients; it does not contain the path, which is not public."""
HASH_DIGITS = 16

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_STEM = 60
_MAX_PATH_BYTES = 4096
_MAX_NAME_BYTES = 255


def names_below(path: str, *, prefix: str) -> tuple[str, ...]:
    """Return the names of the directories below the root and of the file.

    The path is relative, starts with a slash, or starts with ``prefix``, the root as the writer of
    the path knew it. All three are below the root. Nothing in a name is expanded.

    Raises:
        SourceMissing: no file can have this path: it is empty or too long, contains NUL, ``.`` or
            ``..``, or ends with a slash.
    """
    below = path.removeprefix(f"{prefix.rstrip('/')}/")
    names = tuple(name for name in below.split("/") if name)
    if not names or below.endswith("/") or not all(_valid(name) for name in names):
        raise SourceMissing(MISSING)
    if len(below) > _MAX_PATH_BYTES:
        raise SourceMissing(MISSING)
    return names


def _valid(name: str) -> bool:
    if name in (".", "..") or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) <= _MAX_NAME_BYTES
    # A lone surrogate cannot be encoded, so no file can have this name.
    except UnicodeEncodeError:
        return False


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
