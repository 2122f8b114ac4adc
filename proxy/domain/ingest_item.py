"""Intake: uploads on their way through a worker: what is queued, held, and has become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from proxy.domain.media import DataType
from proxy.domain.pending_image import Step


class ItemState(StrEnum):
    """How far an upload has come in the worker's own queue."""

    QUEUED = "queued"
    """Waits, or is worked on: then it has a lease."""
    DONE = "done"
    INCOMPLETE = "incomplete"
    """Done, but for somebody who could not look at it: it is served, and he is asked again."""
    FAILED = "failed"
    """Tried again later, unless it is final."""


class ItemOutcome(StrEnum):
    """What became of an upload that a worker had."""

    DONE = "done"
    RETRY = "later"
    """It failed, and is tried again."""
    FAILED = "failed"
    """For good."""
    REPORTED = "owed"
    """It had failed for good before; the main API was, or could not be, told."""
    ANALYSED = "seen"
    """It was done before; who could not look at it then has."""
    ANALYSIS_MISSING = "unseen"
    """It was done before; who could not look at it then still cannot."""


class StepState(StrEnum):
    """How far a step has come, as ``processing_checklist`` has it."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that the main API has for a worker."""

    id: int
    """Of ``pending_images``, from 1."""
    user_id: int
    image_path: str
    """As the main API told it: not checked."""
    original_name: str | None
    mime_type: str | None
    data_type: DataType


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on an upload, and to write down what became of it, until it runs out."""

    main_api_id: int
    media_id: int
    token: str


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What is written down of a step."""

    state: StepState
    attempts: int


@dataclass(frozen=True, slots=True)
class LeasedItem:
    """An upload that this worker holds."""

    upload: Upload
    lease: Lease
    day: date
    """When its medium was made: the day of the original's folder."""
    steps: Mapping[Step, StepRecord]
    retries: int
    """How often it was tried again after a failure."""
    taken_over: bool
    """From a worker whose lease had run out."""
    report_due: bool
    """It has failed for good, and the main API is to hear of it: that is all there is to do."""
    reason: str | None = None
    analysis_only: bool = False
    """It is done; ``heals`` times it was asked again what its analysis lacks, with this."""

    def is_done(self, step: Step) -> bool:
        """Whether a step need not be done again."""
        return self.steps[step].state is StepState.COMPLETED


@dataclass(frozen=True, slots=True)
class Failure:
    """An upload that failed, and why."""

    main_api_id: int
    media_id: int | None
    final: bool
    reason: str


@dataclass(frozen=True, slots=True)
class QueueReport:
    """What the queue looks like now."""

    states: Mapping[str, int]
    """Items by `ItemState`."""
    steps: Mapping[str, Mapping[str, int]]
    """By `Step`, then by `StepState`: of all items that are not done, and of those done."""
    attempts: Mapping[str, int]
    """By `Step`, those of all items together."""
    stuck: int
    """Neither done nor failed for good an hour after they came."""
    oldest_s: float
    """Since the oldest of those came that are neither done nor failed for good; 0 for none."""
    failed_for_good: int
    held: int
    """Leases that run."""
    expired: int
    """Leases that have run out and were not given back."""
    takeovers: int
    finished_last_hour: int
    failures: tuple[Failure, ...]
    """The latest ones."""
