"""Boxes, and where the pixels of a picture go in them; pure.

A variant holds the very pixels that go out, so that two requests for the same pixels share one
rendition: a picture smaller than its box has one rendition for all larger boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from proxy.domain.media import Focus, MediaFacts

MAX_SIDE = 16383
"""The longest side that WebP can hold; AVIF and JPEG hold a little more."""
SHAPE_DIGITS = 8
"""Hexadecimal digits that stand for a shape; the digest of a variant begins with them."""


class Fit(StrEnum):
    """How a picture meets its box."""

    CONTAIN = "contain"
    """Whole picture inside the box."""
    COVER = "cover"
    """Box filled, the rest cut off."""


class Gravity(StrEnum):
    """What a cover crop keeps in view."""

    ATTENTION = "attention"
    """The focal point of the picture, or its centre while none is known."""
    CENTRE = "centre"


@dataclass(frozen=True, slots=True)
class SizeSpec:
    """A box in pixels; a side of None is as long as the picture makes it."""

    name: str
    width: int | None
    height: int | None
    fit: Fit = Fit.CONTAIN
    gravity: Gravity = Gravity.ATTENTION

    def scaled(self, dpr: float) -> SizeSpec:
        """The same box for a screen with ``dpr`` device pixels to a CSS pixel."""
        return SizeSpec(
            self.name,
            None if self.width is None else round(self.width * dpr),
            None if self.height is None else round(self.height * dpr),
            self.fit,
            self.gravity,
        )


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the pixels come from and go to, in whole pixels, width before height.

    The picture is resized to ``scaled_width`` x ``scaled_height``, then the box of ``width`` x
    ``height`` is cut out of it at ``left``, ``top``.
    """

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    left: int = 0
    top: int = 0

    @property
    def text(self) -> str:
        """Canonical text, a part of the key."""
        return (
            f"{self.width}x{self.height}"
            f"@{self.scaled_width}x{self.scaled_height}+{self.left}+{self.top}"
        )

    @property
    def shape(self) -> str:
        """8 hexadecimal digits of the text, with which the digest of every such variant begins."""
        return blake2b(self.text.encode(), digest_size=SHAPE_DIGITS // 2).hexdigest()


def plan_geometry(box: SizeSpec, facts: MediaFacts) -> Geometry:
    """Fit a picture into a box without ever enlarging it.

    Contain gives the source's own size where the box is larger; cover crops to the shape of the
    box at the largest size that the source has.
    """
    if box.fit is Fit.COVER and box.width is not None and box.height is not None:
        return _cover(box.width, box.height, facts, _focus(box.gravity, facts.focus))
    scale = min(
        1.0,
        math.inf if box.width is None else box.width / facts.width,
        math.inf if box.height is None else box.height / facts.height,
        MAX_SIDE / max(facts.width, facts.height),
    )
    width, height = _side(facts.width * scale), _side(facts.height * scale)
    return Geometry(width, height, width, height)


def _cover(width: int, height: int, facts: MediaFacts, focus: Focus) -> Geometry:
    longest = MAX_SIDE / max(width, height)
    shrink = min(1.0, facts.width / width, facts.height / height, longest)
    width, height = _side(width * shrink), _side(height * shrink)
    scale = max(width / facts.width, height / facts.height)
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
    return max(1, round(length))


def _offset(focus: float, length: int, whole: int) -> int:
    """Start of a stretch of ``length`` inside ``whole``, its middle as near ``focus`` as can be."""
    return min(max(0, round(focus * whole - length / 2)), whole - length)


def base_size(boxes: Iterable[SizeSpec], facts: MediaFacts) -> tuple[int, int]:
    """The largest size that a picture has in these boxes, whose pixels serve for the others."""
    geometries = (plan_geometry(box, facts) for box in boxes)
    return max((one.scaled_width, one.scaled_height) for one in geometries)


def shapes_of(boxes: Iterable[SizeSpec], facts: MediaFacts) -> frozenset[str]:
    """The shapes that a picture has in these boxes; two boxes may give it the same."""
    return frozenset(plan_geometry(box, facts).shape for box in boxes)
