"""Geometry: how an image is scaled and cropped into a box. Pure.

A variant is described by its resulting pixels, not by the box. An image that is smaller than its
box therefore has one rendition for all larger boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from proxy.domain.media import Focus, MediaFacts

MAX_SIDE = 16383
"""Longest side of a WebP; AVIF and JPEG allow slightly more."""
SHAPE_DIGITS = 8
"""Number of hexadecimal digits of a shape, with which the digest of a variant starts."""


class Fit(StrEnum):
    """How an image is fitted into its box."""

    CONTAIN = "contain"
    """The whole image inside the box."""
    COVER = "cover"
    """The box filled, the rest cropped."""


class Gravity(StrEnum):
    """The part of the image that a cover crop keeps."""

    ATTENTION = "attention"
    """The focal point, or the centre if none is known."""
    CENTRE = "centre"


@dataclass(frozen=True, slots=True)
class SizeSpec:
    """A box in pixels. A side that is None follows from the aspect ratio of the image."""

    name: str
    width: int | None
    height: int | None
    fit: Fit = Fit.CONTAIN
    gravity: Gravity = Gravity.ATTENTION

    def scaled(self, dpr: float) -> SizeSpec:
        """Return the box for a screen with ``dpr`` device pixels per CSS pixel."""
        return SizeSpec(
            self.name,
            None if self.width is None else round(self.width * dpr),
            None if self.height is None else round(self.height * dpr),
            self.fit,
            self.gravity,
        )


@dataclass(frozen=True, slots=True)
class Geometry:
    """Scaling and crop in whole pixels.

    The image is resized to ``scaled_width`` x ``scaled_height``. Then ``width`` x ``height`` pixels
    are cropped from it at ``left``, ``top``.
    """

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    left: int = 0
    top: int = 0

    @property
    def text(self) -> str:
        """Canonical text, a part of the variant's key."""
        return (
            f"{self.width}x{self.height}"
            f"@{self.scaled_width}x{self.scaled_height}+{self.left}+{self.top}"
        )

    @property
    def shape(self) -> str:
        """Hash of the text in 8 hexadecimal digits, with which the variant's digest starts."""
        return blake2b(self.text.encode(), digest_size=SHAPE_DIGITS // 2).hexdigest()


def plan_geometry(box: SizeSpec, facts: MediaFacts) -> Geometry:
    """Fit an image into a box without enlarging it.

    If the box is larger than the image, contain keeps the image's size, and cover crops the largest
    area with the aspect ratio of the box.
    """
    if box.fit is Fit.COVER and box.width is not None and box.height is not None:
        return _cover(box.width, box.height, facts, _focus(box.gravity, facts.focus))
    scale = min(
        1.0,
        math.inf if box.width is None else box.width / facts.width,
        math.inf if box.height is None else box.height / facts.height,
        # A limit of WebP. All formats have it, so that negotiation never changes the size.
        MAX_SIDE / max(facts.width, facts.height),
    )
    width, height = _side(facts.width * scale), _side(facts.height * scale)
    return Geometry(width, height, width, height)


def _cover(width: int, height: int, facts: MediaFacts, focus: Focus) -> Geometry:
    # Scale the box down, never the image up, and keep the aspect ratio of the box.
    longest = MAX_SIDE / max(width, height)
    shrink = min(1.0, facts.width / width, facts.height / height, longest)
    width, height = _side(width * shrink), _side(height * shrink)
    scale = max(width / facts.width, height / facts.height)
    # Rounding could make the scaled image one pixel smaller than the crop.
    scaled_width = max(width, _side(facts.width * scale))
    scaled_height = max(height, _side(facts.height * scale))
    return Geometry(
        width,
        height,
        scaled_width,
        scaled_height,
        left=_offset(focus.x, width, scaled_width),
        top=_offset(focus.y, height, scaled_height),
    )


def _focus(gravity: Gravity, focus: Focus | None) -> Focus:
    return focus if gravity is Gravity.ATTENTION and focus is not None else Focus(0.5, 0.5)


def _side(length: float) -> int:
    # A very long image may be thinner than a pixel in a small box.
    return max(1, round(length))


def _offset(focus: float, length: int, whole: int) -> int:
    """Return the start of a section of ``whole``, with its centre as near ``focus`` as possible."""
    # A focal point near the edge would place the crop beyond it.
    return min(max(0, round(focus * whole - length / 2)), whole - length)


def base_size(boxes: Iterable[SizeSpec], facts: MediaFacts) -> tuple[int, int]:
    """Return the largest size of an image in these boxes; the others can be scaled from it."""
    geometries = (plan_geometry(box, facts) for box in boxes)
    return max((one.scaled_width, one.scaled_height) for one in geometries)


def shapes_of(boxes: Iterable[SizeSpec], facts: MediaFacts) -> frozenset[str]:
    """Return the shapes of an image in these boxes; several boxes may give the same one."""
    return frozenset(plan_geometry(box, facts).shape for box in boxes)
