"""Uploads: rows of ``pending_images`` in the main database, and the ingest queue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

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
_MAX_NAME, _MAX_TYPE = 255, 100
# BIGINT has up to 19 digits; `int` of longer text takes quadratic time.
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


class ItemState(StrEnum):
    """State of an upload in the ingest queue."""

    QUEUED = "queued"
    """Waiting, or being processed under a lease."""
    DONE = "done"
    INCOMPLETE = "incomplete"
    """Done and served, but an analysis provider did not answer; it is retried."""
    FAILED = "failed"
    """Retried later, unless the failure is permanent."""


class ItemOutcome(StrEnum):
    """Result of one run of an upload. The values are labels of a metric."""

    DONE = "done"
    RETRY = "later"
    """Failed; it is retried later."""
    FAILED = "failed"
    """Failed permanently."""
    REPORTED = "owed"
    """Had failed permanently before; the report to the main API was sent or attempted."""
    ANALYSED = "seen"
    """Was done before; the missing analysis is complete now."""
    ANALYSIS_MISSING = "unseen"
    """Was done before; the analysis is still missing."""


class StepState(StrEnum):
    """State of a step, with the values of ``processing_checklist``."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as the main API lists it."""

    id: int
    """Id in ``pending_images``, at least 1."""
    user_id: int
    image_path: str
    """As the main API sent it; not validated."""
    original_name: str | None
    mime_type: str | None
    data_type: DataType


def new_upload(main_api_id: int, user_id: int, path: str, name: Any, mime_type: Any) -> Upload:
    """Return an upload; texts are shortened to the width of their columns in the queue."""
    return Upload(
        id=main_api_id,
        user_id=user_id,
        image_path=path,
        original_name=_text(name, _MAX_NAME),
        mime_type=_text(mime_type, _MAX_TYPE),
        data_type=data_type_of(path) or DataType.PROFILE,
    )


def _text(value: Any, max_length: int) -> str | None:
    return value[:max_length] if isinstance(value, str) and value else None


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right to process an upload until the lease expires.

    Every write is fenced by ``token``: it fails if another worker has taken the upload over.
    """

    main_api_id: int
    media_id: int
    token: str


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Stored progress of a step."""

    state: StepState
    attempts: int


@dataclass(frozen=True, slots=True)
class LeasedItem:
    """An upload that this worker has leased."""

    upload: Upload
    lease: Lease
    day: date
    """Creation date of the media row, which names the directory of the original."""
    steps: Mapping[Step, StepRecord]
    retries: int
    """Number of runs after a failure; for `analysis_only` those of the analysis."""
    report_due: bool
    """Whether it has failed permanently and only the report to the main API remains."""
    analysis_only: bool = False
    """Whether it is done and only the missing part of the analysis is retried."""

    def is_done(self, step: Step) -> bool:
        """Return whether a step is completed and must not run again."""
        return self.steps[step].state is StepState.COMPLETED


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed upload with the reason."""

    main_api_id: int
    media_id: int | None
    final: bool
    reason: str


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Statistics of the ingest queue; the fields are the keys of ``smartserve status --json``."""

    states: Mapping[str, int]
    """Number of items by `ItemState`."""
    steps: Mapping[str, Mapping[str, int]]
    """Number of items by `Step` and `StepState`."""
    attempts: Mapping[str, int]
    """Number of attempts by `Step`, of all items."""
    stuck: int
    """Items that are neither done nor failed permanently one hour after their arrival."""
    oldest_s: float
    """Age of the oldest item that is neither done nor failed permanently; 0 if there is none."""
    failed_for_good: int
    held: int
    """Number of valid leases."""
    run_out: int
    """Number of leases that expired without being released."""
    takeovers: int
    finished_last_hour: int
    failures: tuple[Failure, ...]
    """The most recent ones."""
