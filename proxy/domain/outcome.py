"""The outcome of a request: what metrics, traces and the access log record about a response."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from proxy.domain.variant import Variant


class Origin(StrEnum):
    """Where an answer came from."""

    MEMORY = "memory"
    DISK = "disk"
    RENDER = "render"
    COALESCED = "coalesced"
    FALLBACK = "fallback"
    NOT_MODIFIED = "not_modified"
    NONE = "none"


class Outcome(NamedTuple):
    """What the metrics and the access log say of an answer; all but the id from closed sets."""

    route: str
    size: str = "none"
    format: str = "none"
    source: Origin = Origin.NONE
    media_id: int | None = None
    variant: Variant | None = None
    """What went out, for traces; no label."""
    stage: str = ""
    """``draft`` or ``final``, where the variant is what was asked for."""
    error: str | None = None
    """The kind of error that the answer tells of."""
