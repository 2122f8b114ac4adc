"""Pending images: uploads in the table ``pending_images`` of the main database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from proxy.domain.media import DataType

TEMP_PREFIX = "/temp_images/"
"""Prefix of every ``image_path``, followed by the folder of an `UploadField`."""


class PendingStatus(StrEnum):
    """State of an upload: pending, processed, complete; or pending, failed."""

    PENDING = "pending"
    PROCESSED = "processed"
    """The media row exists; the profiles still contain the address of the temporary file."""
    COMPLETE = "complete"
    FAILED = "failed"


class Step(StrEnum):
    """Steps of an ingest worker, in their order; columns of ``processing_checklist``."""

    RETRIEVE_FILE = "retrieve_file"
    AI_VISUAL_ANALYSIS = "ai_visual_analysis"
    RESIZE_OPTIMIZE = "resize_optimize"
    UPDATE_CALLBACK = "update_callback"


@dataclass(frozen=True, slots=True)
class UploadField:
    """A file field of the upload form."""

    name: str
    kind: str
    """Part of the temporary file's name."""
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
"""By name: MEDIA_TYPE_MAPPING of the requirements document."""

_KINDS: Mapping[str, DataType] = MappingProxyType(
    # The requirements document uses both "site" and "sites".
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
    """Timezone-aware, in UTC."""
    updated_at: datetime
    permanent_url: str | None = None
    """Id of the media row once the upload is processed."""


def media_id_of(permanent_url: str | None) -> str | None:
    """Return the media id in ``permanent_url``, which is the id itself or a URL that ends in it.

    Leading zeros are removed. The result is None if there is no id.
    """
    # The callback contains both the id and a URL; a main API may store either.
    last = (permanent_url or "").partition("?")[0].partition("#")[0].rpartition("/")[2]
    return str(int(last)) if _NUMBER.fullmatch(last) else None


def data_type_of(image_path: str) -> DataType | None:
    """Return the purpose of an upload by its file name, or else by its folder; None if unknown.

    The path comes from another program's database and may be any text.
    """
    # Names have the form USER-KIND-NUMBER.EXTENSION, with an optional suffix to the number.
    match = _NAME.fullmatch(image_path.rpartition("/")[2])
    if match is not None and match[1].lower() in _KINDS:
        return _KINDS[match[1].lower()]
    return DataType.SITES if image_path.startswith(f"{TEMP_PREFIX}sites/") else None
