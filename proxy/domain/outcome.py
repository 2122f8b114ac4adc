"""Outcome of a request: the labels that metrics, traces and the access log record."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from proxy.domain.variant import Variant


class Origin(StrEnum):
    """Source of a response body."""

    MEMORY = "memory"
    DISK = "disk"
    RENDER = "render"
    COALESCED = "coalesced"
    """Rendered by another request that was already running (single flight)."""
    FALLBACK = "fallback"
    NOT_MODIFIED = "not_modified"
    NONE = "none"


class Outcome(NamedTuple):
    """Record of one response.

    Every field except ``media_id`` and ``variant`` has a closed set of values: they are labels of
    metrics, whose number must not depend on what clients send.
    """

    route: str
    size: str = "none"
    format: str = "none"
    source: Origin = Origin.NONE
    media_id: int | None = None
    variant: Variant | None = None
    """The variant that was sent, for traces only."""
    stage: str = ""
    """``draft`` or ``final`` of the requested variant; empty for any other."""
    error: str | None = None
    """Class name of the error that was sent."""
