"""Values of an extraction: its options and its result, from which all views are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from proxy.rendering.pool.pool import RESTART_REASONS
from proxy.runtime.deferred_json import DeferredArray, DeferredObject, dumps, parsed

Progress = Callable[[int, str], None]
"""Called on the event loop with per cent and stage: ``walked``, ``engine``, ``credentials`` and
``complete``; before that, ``received`` is for the caller to report."""

SCHEMA = 1
"""Version of the metadata object; it is raised with each incompatible change."""

PROGRESS: Mapping[str, int] = {
    "received": 10,
    "walked": 30,
    "engine": 50,
    "credentials": 80,
    "complete": 100,
}
"""Per cent by stage."""

OUTCOMES = ("ok", "unknown_format", "too_large", "failed", "timeout", "rejected")
"""Outcomes of an extraction."""
FALLBACK_REASONS = ("missing", "start", "timeout", "died", "output", "unreadable")
"""Reasons for which the fallback read a file."""
IDLE_STATISTICS: Mapping[str, float] = dict.fromkeys(
    (
        *(f"extractions_{one}" for one in OUTCOMES),
        *(f"fallbacks_{one}" for one in FALLBACK_REASONS),
        *(f"restarts_{one}" for one in RESTART_REASONS),
        *(f"worker_restarts_{one}" for one in RESTART_REASONS),
        *("waiting", "inside", "workers_up", "engine_peak_bytes"),
        *("engines_up", "engines_idle", "engines_expected"),
    ),
    0.0,
)
"""The statistics of a service that has not started: every figure exists, as alerts need it."""


class Tier(StrEnum):
    """Which files callers may send, and what they may see; each tier includes those before it."""

    FREE = "free"
    PROFESSIONAL = "professional"
    FORENSIC = "forensic"
    ENTERPRISE = "enterprise"

    @property
    def rank(self) -> int:
        """Position in the order of tiers, from 0."""
        return list(Tier).index(self)


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """What a caller wants to know about a file."""

    file_name: str = ""
    """As the client declared it. It is checked against the content, and never used as a path."""
    media_type: str = ""
    """As the client declared it, by `formats.declared_media_type`; it is checked as the name is."""
    advanced: bool = False
    """Compute `Extraction.advanced`, too."""
    tier: Tier = Tier.ENTERPRISE
    """Tier of the caller: `tiers.withhold` removes what it may not see."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """All that was read from a file."""

    metadata: Mapping[str, Any]
    """The metadata object; `deploy/METADATA.md` describes it."""
    quality_metrics: Mapping[str, Any]
    processing_insights: Mapping[str, Any]
    advanced: Mapping[str, Any] | None = None
    """Facts for examiners, if `ExtractOptions.advanced` was set: hashes, c2pa, validation,
    timeline, consistency, thumbnail, jpeg, trailing_bytes, stealth, privacy, reasons."""

    def to_dict(self) -> dict[str, Any]:
        """Return the parts by name; ``advanced`` only if it was computed."""
        parts = {
            "metadata": self.metadata,
            "quality_metrics": self.quality_metrics,
            "processing_insights": self.processing_insights,
        }
        return parts if self.advanced is None else {**parts, "advanced": self.advanced}

    def parsed(self) -> Extraction:
        """Return the extraction with all parts as plain values."""
        return replace(self, metadata=parsed(self.metadata))


def split_bulk(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Return the metadata object without its bulk, and that as JSON: each group, then the texts.

    The names of the groups remain in ``groups``.
    """
    groups = metadata["groups"]
    return {**metadata, "groups": [*groups], "text": None}, [
        dumps(one) for one in (*groups.values(), metadata["text"])
    ]


def join_bulk(metadata: Mapping[str, Any], bulk: Sequence[bytes]) -> dict[str, Any]:
    """Return the metadata object of `split_bulk`, with its bulk as deferred JSON.

    Raises:
        ValueError: the bulk is not that of this object.
    """
    names, (*tags, texts) = metadata["groups"], bulk
    groups = {name: DeferredObject(one) for name, one in zip(names, tags, strict=True)}
    return {**metadata, "groups": groups, "text": DeferredArray(texts)}
