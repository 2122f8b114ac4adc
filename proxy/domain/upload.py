"""Uploads: rows of ``pending_images`` in the main database, and the ingest queue."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from proxy.domain.media import MAX_MEDIA_ID, DataType

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


METADATA_STEP = "extract_metadata"
"""The work after the steps. It has no column in the checklist, which the platform reads, too."""


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
_KIND = re.compile(r"[0-9]+-([a-z][a-z0-9_]*)[-.].*", re.ASCII | re.IGNORECASE | re.DOTALL)
_FOLDERS: Mapping[str, DataType] = MappingProxyType(
    {"profiles": DataType.PROFILE, "sites": DataType.SITES}
)
_MAX_PATH = 500


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
    folder, _, name = image_path.removeprefix(TEMP_PREFIX).partition("/")
    # Names have the form USER-KIND-NUMBER.EXTENSION, with an optional suffix to the number.
    match = _KIND.fullmatch(name.rpartition("/")[2])
    # A name with an unknown kind does not get the kind of its folder: an image of a type that this
    # version does not have would be processed, and shown, as a profile photo.
    if match is not None:
        return _KINDS.get(match[1].lower())
    return _FOLDERS.get(folder) if image_path.startswith(TEMP_PREFIX) else None


class ItemState(StrEnum):
    """State of an upload in the ingest queue."""

    QUEUED = "queued"
    """Waiting, or being processed under a lease."""
    DONE = "done"
    INCOMPLETE = "incomplete"
    """Done and served, but an analysis provider did not answer, or the metadata could not be
    extracted; it is retried."""
    FAILED = "failed"
    """Retried later, unless the failure is permanent: the file is bad, or the upload is gone."""
    KEPT = "kept"
    """Failed permanently although its file was not proved bad. The file and its upload are kept
    until an operator retries or deletes it."""


class ItemOutcome(StrEnum):
    """Result of one run of an upload. The values are labels of a metric."""

    DONE = "done"
    RETRY = "later"
    """Failed; it is retried later."""
    FAILED = "failed"
    """Failed permanently."""
    KEPT = "kept"
    """Failed permanently; the file is kept for the operator."""
    REPORTED = "owed"
    """Had failed permanently before; the report to the main API was sent or attempted."""
    ANALYSED = "seen"
    """Was done before; the missing analysis or metadata is complete now."""
    ANALYSIS_MISSING = "unseen"
    """Was done before; the analysis or the metadata is still missing."""


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


@dataclass(frozen=True, slots=True)
class UnusableUpload:
    """An entry of the list that no worker can process. Its file is kept."""

    id: int
    user_id: int
    """0 if the entry has no valid one."""
    image_path: str
    """Shortened to its column; empty if the entry has none."""
    reason: str


@dataclass(frozen=True, slots=True)
class PendingPage:
    """A page of the main API's list of pending uploads."""

    uploads: Sequence[Upload] = ()
    unusable: Sequence[UnusableUpload] = ()
    unreadable: int = 0
    """Entries without a valid id: they cannot be recorded, so they are only counted."""
    next_after: int | None = None
    """Id after which the next page begins; None if this is the last one."""


async def pages(read: Callable[[int], Awaitable[PendingPage]]) -> AsyncIterator[PendingPage]:
    """Yield the pages of a list, one at a time.

    ``read`` returns the page behind an id, 0 for the first; its errors are raised.
    """
    after: int | None = 0
    while after is not None:
        page = await read(after)
        yield page
        # A page that does not advance would be requested for ever.
        after = page.next_after if (page.next_after or 0) > after else None


def pending_page(
    entries: Iterable[Upload | UnusableUpload],
    *,
    unreadable: int = 0,
    next_after: int | None = None,
) -> PendingPage:
    """Return a page with the usable entries apart from the others."""
    uploads, unusable = [], []
    for entry in entries:
        if isinstance(entry, Upload):
            uploads.append(entry)
        else:
            unusable.append(entry)
    return PendingPage(uploads, unusable, unreadable, next_after)


def new_upload(
    main_api_id: int, user_id: Any, path: Any, name: Any, mime_type: Any
) -> Upload | UnusableUpload:
    """Return an upload; texts are shortened to the width of their columns in the queue."""
    user, shown = unsigned_bigint(user_id), path if isinstance(path, str) else ""
    data_type, reason = data_type_of(shown), ""
    if user is None:
        reason = f"its user_id is not a whole number from 0 to {MAX_MEDIA_ID}"
    elif not isinstance(path, str):
        reason = "its image_path is not text"
    elif len(path) > _MAX_PATH:
        reason = f"its image_path has more than {_MAX_PATH} characters"
    elif data_type is None:
        reason = (
            f"its file name {path.rpartition('/')[2][:100]!r} has an unknown type; known are"
            f" {', '.join(sorted(_KINDS))}"
        )
    if user is None or data_type is None or reason:
        return UnusableUpload(main_api_id, user or 0, shown[:_MAX_PATH], reason)
    return Upload(
        id=main_api_id,
        user_id=user,
        image_path=shown,
        original_name=_text(name, _MAX_NAME),
        mime_type=_text(mime_type, _MAX_TYPE),
        data_type=data_type,
    )


def unsigned_bigint(value: Any) -> int | None:
    """Return an unsigned BIGINT, or None.

    Some drivers send it as text, because numbers of JavaScript are exact up to 2 ** 53 only.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= MAX_MEDIA_ID else None


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
    last_reason: str | None = None
    """Why the last run failed; None if none has."""
    analysis_only: bool = False
    """Whether it is done, and only the missing part of the analysis or the metadata is retried."""

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
