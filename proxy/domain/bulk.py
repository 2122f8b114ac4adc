"""Bulk work: one task for every image of a library, in parts that workers lease."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class BulkTask(StrEnum):
    """What is done with each image. Each task can be repeated without harm."""

    WARM = "warm"
    """Render the missing finals."""
    RENDER = "render"
    """Delete all renditions, then render the finals."""
    ANALYSE = "analyse"
    """Store the analyses of images that have none, or one of an earlier version."""
    EXTRACT = "extract"
    """Extract and store the metadata of images that have none, or that of an earlier engine."""
    CHECK = "check"
    """Read and decode each original completely, and compare it with the stored content hash."""


class PlanStatus(StrEnum):
    """Status of a plan."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """A plan and its progress."""

    id: int
    task: BulkTask
    status: PlanStatus
    total: int
    """Images when the plan was made."""
    done: int
    failed: int
    workers: int
    """Parts that are leased now."""
    rate: float | None
    """Limit of images per second, of all workers together."""
    speed: float | None
    """Images per second since it began or was resumed; None if that is not known."""

    @property
    def remaining_s(self) -> float | None:
        """Return the estimated seconds until the end, or None if nothing can be estimated."""
        if self.status is not PlanStatus.RUNNING or not self.speed:
            return None
        return max(0, self.total - self.done - self.failed) / self.speed


@dataclass(slots=True)
class LeasedPart:
    """A range of ids that this worker has leased."""

    plan_id: int
    first_id: int
    last_id: int
    token: str
    position: int
    """The last id up to which everything is processed and stored."""


@dataclass(slots=True)
class PartProgress:
    """What has been processed since the last renewal of a lease."""

    position: int
    done: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    """Reasons by media id."""
