"""Pending images: uploads on their way to become media, as ``pending_images`` has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from proxy.domain.media import DataType

TEMP_PREFIX = "/temp_images/"
"""What ``image_path`` begins with; below it are the folders of `UploadField`."""


class PendingStatus(StrEnum):
    """How far an upload has come: pending, processed, complete; or pending, failed."""

    PENDING = "pending"
    PROCESSED = "processed"
    """A medium is there; the profiles still name the temporary file."""
    COMPLETE = "complete"
    FAILED = "failed"


class Step(StrEnum):
    """What a worker does with an upload, in order; columns of ``processing_checklist``."""

    RETRIEVE_FILE = "retrieve_file"
    AI_VISUAL_ANALYSIS = "ai_visual_analysis"
    RESIZE_OPTIMIZE = "resize_optimize"
    UPDATE_CALLBACK = "update_callback"


@dataclass(frozen=True, slots=True)
class UploadField:
    """A field of the upload form."""

    name: str
    kind: str
    """In the name of the temporary file."""
    folder: str
    data_type: DataType


UPLOAD_FIELDS: Mapping[str, UploadField] = MappingProxyType(
    {
        field.name: field
        for field in (
            UploadField("profile_image", "profile", "profiles", DataType.PROFILE),
            UploadField("header_image", "header", "profiles", DataType.PROFILE),
            UploadField("logo_image", "logo", "profiles", DataType.LOGO),
            UploadField("site_image", "site", "sites", DataType.SITES),
            UploadField("product_image", "product", "profiles", DataType.PRODUCT),
            UploadField("event_image", "event", "profiles", DataType.EVENT),
        )
    }
)
"""By name; the requirements document's MEDIA_TYPE_MAPPING."""

_KINDS: Mapping[str, DataType] = MappingProxyType(
    # The document names sites both ways.
    {field.kind: field.data_type for field in UPLOAD_FIELDS.values()} | {"sites": DataType.SITES}
)
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_NAME = re.compile(r"[0-9]+-([a-z]+)-[0-9]+(?:-[0-9a-z]+)?\.[a-z0-9]+", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PendingImage:
    """A row of ``pending_images``."""

    id: int
    user_id: int
    image_path: str
    """``/temp_images/profiles/456-profile-789-123.jpg``."""
    original_name: str | None
    mime_type: str | None
    status: PendingStatus
    created_at: datetime
    """Aware, in UTC."""
    updated_at: datetime
    permanent_url: str | None = None
    """The id of the medium once it is processed, as the document has it."""


def media_id_of(permanent_url: str | None) -> str | None:
    """The id of a medium in ``permanent_url``: itself, or the last step of a URL; None for others.

    Leading zeros go, as they do in a number.
    """
    last = (permanent_url or "").partition("?")[0].partition("#")[0].rpartition("/")[2]
    return str(int(last)) if _NUMBER.fullmatch(last) else None


def data_type_of(image_path: str) -> DataType | None:
    """What an upload is for, by its path: its name, or else its folder; None where neither tells.

    Whatever stands in a database of another program is read here, so it is looked at only.
    """
    match = _NAME.fullmatch(image_path.rpartition("/")[2])
    if match is not None and match[1].lower() in _KINDS:
        return _KINDS[match[1].lower()]
    return DataType.SITES if image_path.startswith(f"{TEMP_PREFIX}sites/") else None
