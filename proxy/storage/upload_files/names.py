"""Builds and parses the names of uploaded files. A name contains no text of a client."""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.upload import TEMP_PREFIX, UPLOAD_FIELDS, UploadField

FOLDERS = tuple(sorted({field.folder for field in UPLOAD_FIELDS.values()}))
SUFFIXES = dict(zip(SOURCE_MEDIA_TYPES, SOURCE_MEDIA_TYPES, strict=True)) | {"jpeg": "jpg"}
"""Suffixes by the type that `proxy.domain.formats.sniff` returns."""

# No leading dot: hidden names belong to unfinished files and to other programs.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,199}", re.ASCII)


class TempName(NamedTuple):
    """The path of an uploaded file below the root."""

    folder: str
    name: str

    @property
    def image_path(self) -> str:
        """The path as ``pending_images`` stores it."""
        return f"{TEMP_PREFIX}{self.folder}/{self.name}"


def new_temp_name(field: UploadField, *, user_id: int, source_type: str, at: float) -> TempName:
    """Return ``{userId}-{type}-{timestamp}-{random}.{ext}``; ``at`` is in seconds since 1970."""
    # With 10**12 values two equal names in one second are practically impossible; publishing one
    # would raise FileExistsError.
    number = secrets.randbelow(10**12)
    name = f"{user_id}-{field.kind}-{int(at)}-{number:012}.{SUFFIXES[source_type]}"
    return TempName(field.folder, name)


def temp_name(image_path: str) -> TempName | None:
    """Parse a path of ``pending_images``; return None if it is not in one of our folders."""
    folder, _, name = image_path.removeprefix(TEMP_PREFIX).partition("/")
    if not image_path.startswith(TEMP_PREFIX) or folder not in FOLDERS:
        return None
    return TempName(folder, name) if _NAME.fullmatch(name) else None
