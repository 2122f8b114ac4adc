"""Findings: what a look at a picture tells, by statistics here or by a model elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour of a picture and how much of it has that colour."""

    hex: str
    """sRGB as ``#RRGGBB``."""
    percent: float
    """Of the opaque pixels, 0 to 100."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a picture is technically; each figure is 0 (poor) to 100 (faultless)."""

    score: float
    """Of all parts that count for its kind."""
    sharpness: float
    exposure: float
    contrast: float
    noise: float
    """100 is none."""
    resolution: float
    blockiness: float
    """100 is no trace of a JPEG's blocks."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What sort of picture it is, as far as statistics tell, and why."""

    name: str
    """One of `KINDS`."""
    reason: str


KINDS = ("photo", "logo", "graphic", "document", "plain")
"""A graphic on nothing or on a flat ground is a logo; plain is a picture of one colour."""


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """A thing that a model sees."""

    name: str
    confidence: float
    """0 to 1."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom as fractions of width and height; None where it says nothing."""


@dataclass(frozen=True, slots=True)
class VisionResult:
    """What a provider says of a picture; None and empty where it says nothing."""

    provider: str
    raw: Mapping[str, Any]
    """Its answer as it came, without the picture."""
    style: str | None = None
    medium: str | None = None
    subject: str | None = None
    mood_keywords: tuple[str, ...] = ()
    objects: tuple[DetectedObject, ...] = ()
    text: str | None = None
    """Empty where it looked for text and found none."""
    logos: tuple[str, ...] = ()
    """Marks that it recognises."""
    unsafe: Mapping[str, str] = field(default_factory=dict)
    """Its likelihoods by category: ``adult``, ``violence`` and others."""
    confidence: float | None = None
    """0 to 1."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why something is missing, by its field."""


@dataclass(frozen=True, slots=True)
class ProviderGap:
    """Why a provider or a reader of text has nothing to say of a picture."""

    provider: str
    reason: str
    temporary: bool = False
    """Whether it may have something to say later."""


@dataclass(frozen=True, slots=True)
class ReadText:
    """What a reader of text found; empty where it found none."""

    text: str
