"""Results of image analysis: by statistics in a worker, and by external providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour and its share of the image."""

    hex: str
    """sRGB as ``#RRGGBB``."""
    percent: float
    """Percentage of the opaque pixels."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Technical quality; each figure is 0 (poor) to 100 (best)."""

    score: float
    """Weighted mean of the figures that matter for the kind of image."""
    sharpness: float
    exposure: float
    contrast: float
    noise: float
    """100: no noise."""
    resolution: float
    blockiness: float
    """100: no visible JPEG blocks."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of image by statistics, with the reason."""

    name: str
    """``photo``, ``logo``, ``graphic``, ``document`` or ``plain``. A graphic on a transparent or
    flat background is a logo; an image of one colour is plain."""
    reason: str


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """An object that a provider detected."""

    name: str
    confidence: float
    """0 to 1."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom as fractions of width and height; None if not located."""


@dataclass(frozen=True, slots=True)
class VisionResult:
    """Answer of a provider. Fields that it does not cover are None or empty."""

    provider: str
    raw: Mapping[str, Any]
    """The unchanged answer, without the image."""
    style: str | None = None
    medium: str | None = None
    subject: str | None = None
    mood_keywords: tuple[str, ...] = ()
    objects: tuple[DetectedObject, ...] = ()
    text: str | None = None
    """Empty if the image contains no text; None if the provider did not search for text."""
    logos: tuple[str, ...] = ()
    """Recognised brand logos."""
    unsafe: Mapping[str, str] = field(default_factory=dict)
    """Likelihood by category, such as ``adult`` and ``violence``."""
    confidence: float | None = None
    """0 to 1."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reasons for missing values, by field."""


@dataclass(frozen=True, slots=True)
class ProviderGap:
    """Reason why a provider, or text recognition, gave no answer."""

    provider: str
    reason: str
    temporary: bool = False
    """Whether a later request may succeed."""


@dataclass(frozen=True, slots=True)
class ReadText:
    """Recognised text; empty if the image contains none."""

    text: str
