"""Ingest items: uploads in the queue of the ingest workers, their leases and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from proxy.domain.media import DataType
from proxy.domain.pending_image import Step


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
    taken_over: bool
    """Whether it was taken over from a worker whose lease expired."""
    report_due: bool
    """Whether it has failed permanently and only the report to the main API remains."""
    reason: str | None = None
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
