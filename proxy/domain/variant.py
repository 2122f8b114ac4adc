"""Variants: fully resolved requests for one rendition, with geometry, encoding, key and ETag. Pure.

A variant is described by its resulting pixels, not by the box. An image that is smaller than its
box therefore has one rendition for all larger boxes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import NamedTuple

from proxy.domain.face_crop import focus_on_faces
from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import NO_CHOICES, Focus, MediaChoices, MediaFacts

MAX_SIDE = 16383
"""Longest side of a WebP; AVIF and JPEG allow slightly more."""
SHAPE_DIGITS = 8
"""Number of hexadecimal digits of a shape, with which the digest of a variant starts."""
_CONTENT_END = SHAPE_DIGITS + 8
"""Where the digits of the content end, which follow the shape."""
_CENTRE = Focus(0.5, 0.5)


class Fit(StrEnum):
    """How an image is fitted into its box."""

    CONTAIN = "contain"
    """The whole image inside the box."""
    COVER = "cover"
    """The box filled, the rest cropped."""


class Gravity(StrEnum):
    """The part of the image that a cover crop keeps."""

    ATTENTION = "attention"
    """The faces, or else the focal point, or the centre if neither is known."""
    CENTRE = "centre"


@dataclass(frozen=True, slots=True)
class SizeSpec:
    """A box in pixels. A side that is None follows from the aspect ratio of the image."""

    name: str
    """In cache tags and metrics: ``detail``, ``w640``."""
    width: int | None
    height: int | None
    fit: Fit = Fit.CONTAIN
    gravity: Gravity = Gravity.ATTENTION

    def scaled(self, dpr: float) -> SizeSpec:
        """Return the box for a screen with ``dpr`` device pixels per CSS pixel."""
        width, height = (side and round(side * dpr) for side in (self.width, self.height))
        return replace(self, width=width, height=height)


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


@lru_cache(maxsize=1024)
def shape_of(geometry: Geometry) -> str:
    """Return the hash of a geometry in 8 hexadecimal digits, with which a variant's digest starts.

    Cached, because draft and final of a size share it.
    """
    return blake2b(geometry.text.encode(), digest_size=SHAPE_DIGITS // 2).hexdigest()


def plan_geometry(box: SizeSpec, facts: MediaFacts, choices: MediaChoices = NO_CHOICES) -> Geometry:
    """Fit an image into a box without enlarging it.

    If the box is larger than the image, contain keeps the image's size, and cover crops the largest
    area with the aspect ratio of the box. ``choices`` matter for cover only.
    """
    # With one side there is nothing to crop.
    if box.fit is not Fit.COVER or box.width is None or box.height is None:
        scaled = scaled_size(box, facts.width, facts.height)
        return Geometry(*scaled, *scaled)
    window, centre = _kept(box.width / box.height, box, facts, choices)
    width, height = _cropped(box.width, box.height, *window)
    scaled = _scaled_for_crop((width, height), window, facts.width, facts.height)
    return Geometry(
        width,
        height,
        *scaled,
        left=_offset(centre.x, width, scaled[0]),
        top=_offset(centre.y, height, scaled[1]),
    )


def _kept(
    aspect: float, box: SizeSpec, facts: MediaFacts, choices: MediaChoices
) -> tuple[tuple[float, float], Focus]:
    """Return what a cover crop keeps: the sides of a window in pixels of the source, its centre.

    The window has at least the width or the height of the crop. In order of precedence: the region
    that a person set for this size, the point that a person set, the detected faces, the detected
    point, the centre.
    """
    crop = choices.crop(box.name) if choices.crops else None
    if crop is None:
        whole = facts.width, facts.height
        if choices.focus is not None or box.gravity is not Gravity.ATTENTION:
            return whole, choices.focus or _CENTRE
        if facts.faces:
            return whole, focus_on_faces(facts.faces, *_shares(aspect, facts))
        return whole, facts.focus or _CENTRE
    # The whole region is kept: its shorter side grows to the aspect ratio of the box.
    width = max(crop.width * facts.width, crop.height * facts.height * aspect)
    height = max(crop.height * facts.height, crop.width * facts.width / aspect)
    # In an image that is too narrow for that, as much as fits around the region's centre.
    shrink = min(1.0, facts.width / width, facts.height / height)
    # The smallest region may have less than a pixel of a very small image.
    window = max(1.0, width * shrink), max(1.0, height * shrink)
    return window, Focus(crop.left + crop.width / 2, crop.top + crop.height / 2)


def _shares(aspect: float, facts: MediaFacts) -> tuple[float, float]:
    """Return width and height of the largest window of an aspect ratio, as shares of the image."""
    ratio = aspect * facts.height / facts.width
    return min(1.0, ratio), min(1.0, 1 / ratio)


def wants_faces(box: SizeSpec, facts: MediaFacts, choices: MediaChoices) -> bool:
    """Return whether a crop may depend on faces that have not been looked for."""
    if facts.faces is not None or box.fit is not Fit.COVER or box.gravity is not Gravity.ATTENTION:
        return False
    # With one side, or the aspect ratio of the image, there is nothing to crop.
    if box.width is None or box.height is None:
        return False
    decided = choices.focus is not None or choices.crop(box.name) is not None
    return not decided and min(_shares(box.width / box.height, facts)) < 1


def scaled_size(box: SizeSpec, width: int, height: int) -> tuple[int, int]:
    """Return the size to which an image is scaled for a box, before any crop."""
    if box.fit is Fit.COVER and box.width is not None and box.height is not None:
        cropped = _cropped(box.width, box.height, width, height)
        return _scaled_for_crop(cropped, (width, height), width, height)
    scale = min(
        1.0,
        math.inf if box.width is None else box.width / width,
        math.inf if box.height is None else box.height / height,
        # A limit of WebP. All formats have it, so that negotiation never changes the size.
        MAX_SIDE / max(width, height),
    )
    return _side(width * scale), _side(height * scale)


def _scaled_for_crop(
    cropped: tuple[int, int], window: tuple[float, float], width: int, height: int
) -> tuple[int, int]:
    """Return the size of the whole image for which a window of it has the size of the crop."""
    # A small window may have been rounded up to whole pixels.
    scale = min(1.0, max(cropped[0] / window[0], cropped[1] / window[1]))
    # Rounding could make the scaled image one pixel smaller than the crop.
    return max(cropped[0], _side(width * scale)), max(cropped[1], _side(height * scale))


def _cropped(across: int, down: int, width: float, height: float) -> tuple[int, int]:
    """Return the size of the crop that fills a box of ``across`` x ``down``."""
    # Scale the box down, never the image up, and keep the aspect ratio of the box.
    longest = MAX_SIDE / max(across, down)
    shrink = min(1.0, width / across, height / down, longest)
    return _side(across * shrink), _side(down * shrink)


def _side(length: float) -> int:
    # A very long image may be thinner than a pixel in a small box.
    return max(1, round(length))


def _offset(focus: float, length: int, whole: int) -> int:
    """Return the start of a section of ``whole``, with its centre as near ``focus`` as possible."""
    # A focal point near the edge would place the crop beyond it.
    return min(max(0, round(focus * whole - length / 2)), whole - length)


def shapes_of(
    boxes: Iterable[SizeSpec], facts: MediaFacts, choices: MediaChoices = NO_CHOICES
) -> frozenset[str]:
    """Return the shapes of an image in these boxes; several boxes may give the same one."""
    return frozenset(shape_of(plan_geometry(box, facts, choices)) for box in boxes)


def box_geometry(box: SizeSpec) -> Geometry:
    """Return a geometry that stands for a box, for images of another server.

    The dimensions of such an image are unknown, so its geometry is that of the box.
    """
    width, height = box.width or 0, box.height or 0
    return Geometry(width, height, width, height)


class Gamut(StrEnum):
    """The colours that the levels of a file can represent."""

    SRGB = "srgb"
    P3 = "p3"
    """Display P3."""


@dataclass(frozen=True, slots=True)
class EncoderProfile:
    """Save options of a format's libvips encoder, and the colours of its files.

    ``options`` are pairs of name and value, sorted by name: equal profiles have equal text, which
    is a part of the rendition's key.
    """

    format: Format
    options: tuple[tuple[str, int | bool | str], ...]
    gamut: Gamut = Gamut.SRGB
    """Gamut of the files of sources whose gamut is wider than sRGB; all others are sRGB."""
    gain_map: bool = True
    """Whether a JPEG keeps the gain map of its source."""

    @property
    def text(self) -> str:
        """Canonical text: ``avif:Q=63,effort=1``."""
        options = [f"{name}={value}" for name, value in self.options]
        if self.gamut is not Gamut.SRGB:
            options.append(f"gamut={self.gamut}")
        if not self.gain_map:
            options.append("gain_map=no")
        return f"{self.format}:{','.join(options)}"


@lru_cache(maxsize=64)
def streams(profile: EncoderProfile) -> bool:
    """Return whether the encoder writes bytes before it has read all pixels.

    Only baseline JPEG does.
    """
    # With any of these, libjpeg needs the whole image before the first byte.
    whole_image = ("interlace", "optimize_coding", "trellis_quant", "optimize_scans")
    options = dict(profile.options)
    return profile.format is Format.JPEG and not any(options.get(name) for name in whole_image)


@dataclass(frozen=True, slots=True)
class QualitySearch:
    """Search for the lowest encoder quality that reaches a perceptual score.

    The search starts at the ``Q`` of the profile and replaces it. Animations and lossless formats
    are encoded by their profile without a search.
    """

    target: float
    """SSIMULACRA2 score as `rendering.worker.imaging.ssimulacra2` estimates it; 100: identical."""
    low: int
    high: int
    """Bounds of ``Q``, inclusive."""
    max_encodes: int = 4

    @property
    def text(self) -> str:
        """Canonical text, a part of the key."""
        return f"ssimulacra2={self.target:g},Q={self.low}-{self.high},encodes={self.max_encodes}"


@dataclass(frozen=True, slots=True)
class EncodingStage:
    """One encoding of a format, with its quality search, if any."""

    profile: EncoderProfile
    search: QualitySearch | None = None


@dataclass(frozen=True, slots=True)
class EncodingStages:
    """Draft and final encoding of a format; equal if it has only one."""

    draft: EncodingStage
    final: EncodingStage


# Version of the rendering code, a part of every key. Increase it if a change of the code gives
# different pixels for the same variant.
_RECIPE = 8


@dataclass(frozen=True)
class Variant:
    """Everything that determines the bytes of one rendition. Equal variants have equal keys."""

    media_id: int
    version: str
    """Content hash of the source, with the purges of all its owner's images, if there were any."""
    geometry: Geometry
    profile: EncoderProfile
    background_removed: bool
    animated: bool
    recipe: str
    """From `recipe`: versions of the rendering code and of libvips."""
    search: QualitySearch | None = None
    """The quality search; None if the profile fixes the quality."""
    alternative: EncodingStage | None = None
    """Another format that is sent instead if its file is smaller."""
    base: tuple[int, int] | None = None
    """Width and height of the intermediate image that this one is scaled from; None: the source."""
    lean: bool = False
    """Whether client hints requested fewer bytes, and the encoding differs from the usual one."""
    stored_as: str | None = None
    """Digest of a stored rendition with this content that another recipe made; see `others`."""

    @cached_property
    def format(self) -> Format:
        """The format of the profile; the alternative is sent instead if its file is smaller."""
        return self.profile.format

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that the bytes may have: that of the profile, and that of the alternative."""
        other = self.alternative
        return (self.format,) if other is None else (self.format, other.profile.format)

    @cached_property
    def key(self) -> str:
        """Canonical text of everything that determines the bytes."""
        # Stores and caches have names made of it: a change of the text renders everything anew.
        return "/".join(
            (
                str(self.media_id),
                self.version,
                self.geometry.text,
                *self._encoding(),
                "removed" if self.background_removed else "original",
                "animated" if self.animated else "still",
                self.recipe,
            )
        )

    def _encoding(self) -> Iterable[str]:
        yield stage_text(self.profile, self.search)
        if self.alternative is not None:
            yield f"or:{stage_text(self.alternative.profile, self.alternative.search)}"
        if self.base is not None:
            yield f"of:{self.base[0]}x{self.base[1]}"
        if self.lean:
            yield "lean"

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits: shape (8), content (8), recipe (16). The content of the ETag.

        The shape is the geometry. A store finds the renditions of one size by it. The content is
        all else that an observer could name: source, format, background, animation. The recipe is
        a hash of the whole key: it changes with the encoder's settings and with libvips.
        """
        if self.stored_as is not None:
            return self.stored_as
        # The recipe has the media id too: digests of all media are keys of one cache in memory.
        recipe = blake2b(self.key.encode(), digest_size=12).hexdigest()[8:]
        return f"{shape_of(self.geometry)}{self._content}{recipe}"

    @cached_property
    def _content(self) -> str:
        flags = self.background_removed, self.animated, self.lean
        return _content_of(f"{self.media_id}/{self.version}/{self.profile.format}/{flags}")

    def others(self, digests: Iterable[str]) -> list[Variant]:
        """Return the renditions with this shape and content that other recipes made.

        ``digests`` are those of the stored renditions of the medium. The order is the same on every
        node.
        """
        alike = sorted(one for one in digests if same_content(one, self.digest))
        return [replace(self, stored_as=one) for one in alike if one != self.digest]

    @cached_property
    def file_name(self) -> str:
        """Name of its file. The suffix is for people; the digest alone identifies the variant."""
        return f"{self.digest}.{TRAITS[self.profile.format].suffix}"

    @cached_property
    def etag(self) -> str:
        """Strong ETag (RFC 9110, 8.8.3), equal on every node."""
        return f'"{self.digest}"'


@lru_cache(maxsize=1024)
def _content_of(text: str) -> str:
    """Return the digits of a content. Cached, because draft and final of a size share it."""
    return blake2b(text.encode(), digest_size=4).hexdigest()


@lru_cache(maxsize=64)
def stage_text(profile: EncoderProfile, search: QualitySearch | None) -> str:
    """Return the canonical text of an encoding. Cached: each key contains it, and there are few."""
    return profile.text if search is None else f"{profile.text};{search.text}"


Shapes = Collection[str] | None
"""Shapes whose renditions are purged; None: all."""


class PurgeEntry(NamedTuple):
    """A purge of a medium, in these shapes or in all.

    An empty set of shapes deletes no rendition: it announces that what is cached of the row or its
    facts is out of date.
    """

    media_id: int
    shapes: frozenset[str] | None = None


def has_shape(digest: str, shapes: Shapes) -> bool:
    """Return whether the digest of a variant has one of these shapes."""
    return shapes is None or digest[:SHAPE_DIGITS] in shapes


def same_content(digest: str, other: str) -> bool:
    """Return whether two digests of one medium have the same shape and content."""
    if digest[:_CONTENT_END] == other[:_CONTENT_END]:
        return True
    # Before version 0.2 a digest had no content, and 8 more digits of the same hash of the key.
    return digest[:SHAPE_DIGITS] == other[:SHAPE_DIGITS] and (
        digest[_CONTENT_END:] == other[_CONTENT_END:]
    )


def recipe(libvips_version: str, *, copyright_notice: str | None = None) -> str:
    """Return the part of a key that identifies the rendering code and the copyright notice."""
    code = f"r{_RECIPE}-vips{libvips_version}"
    if not copyright_notice:
        return code
    # The hash keeps the key short and free of characters from the notice.
    return f"{code}-c{blake2b(copyright_notice.encode(), digest_size=8).hexdigest()}"
