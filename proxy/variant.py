"""From a query to a variant: what is asked for, fully resolved, with its key and its ETag.

Parsing and resolving are pure. A request names a size; the variant holds the very pixels that go
out, so that two requests for the same pixels share one rendition: a picture smaller than its box
has one rendition for all larger boxes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from typing import TypeVar
from urllib.parse import unquote_plus

from proxy.errors import BadParameter
from proxy.formats import NAMES, EncoderProfile, Format, QualitySearch, Stage
from proxy.media import Focus, Media, MediaFacts

DEFAULT_SIZE = "detail"
DPRS: Mapping[str, float] = {"1": 1.0, "1.5": 1.5, "2": 2.0, "3": 3.0}
MAX_SIDE = 16383
"""The longest side that WebP can hold; AVIF and JPEG hold a little more."""
WIDTHS = (16, 32, 48, 64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840)
"""The ladder that ``w`` snaps up to: the image and device sizes that Next.js asks for."""

_T = TypeVar("_T")

_SEPARATORS = re.compile(r"[&?]|%3[Ff]")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)
SHAPE_DIGITS = 8
"""Hexadecimal digits of a digest that stand for the shape."""
_RECIPE = 2
"""Raised whenever the same variant would come out as other pixels: it is a part of every key."""


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
class VariantRequest:
    """What a client asked for, checked and closed: a box, a format or auto, a background."""

    box: SizeSpec
    label: str
    """The name of the size as it stands in cache tags and metrics: ``detail``, ``w640``."""
    format: Format | None = None
    """None asks for negotiation."""
    remove_background: bool = False
    version: str | None = None
    """The ``v`` token; only its presence counts."""

    @property
    def negotiated(self) -> bool:
        """Whether the answer depends on the Accept header."""
        return self.format is None


def last_values(raw_query: str) -> dict[str, str]:
    """Split a raw query; the last value wins, and a ``?`` counts as ``&``, encoded or not.

    Frontends append ``?size=thumbnail`` to URLs that already end in ``?size=detail``, and some
    encode what they have put together once more. The order of
    the result is that of the last mention, so that ``size`` and ``w`` can be told apart by it too.
    """
    values: dict[str, str] = {}
    for pair in _SEPARATORS.split(raw_query):
        name, _, value = unquote_plus(pair).partition("=")
        values.pop(name, None)
        values[name] = value
    return values


def parse_request(
    raw_query: str,
    *,
    sizes: Mapping[str, SizeSpec],
    extension: str | None = None,
) -> VariantRequest:
    """Read a raw query string, and the extension of the path, into a checked request.

    An empty value counts as not given; unknown parameters are ignored. Of ``size`` and ``w`` the
    one named last wins, and ``format`` in the query wins over the extension.

    Raises:
        BadParameter: a value is not allowed; it says which are.
    """
    values = {name: value for name, value in last_values(raw_query).items() if value}
    dpr = _choice("dpr", values.get("dpr", "1"), DPRS)
    size = _choice("size", values.get("size", DEFAULT_SIZE), sizes)
    box, label = size.scaled(dpr), size.name
    if "w" in values:
        width = snap(_width(values["w"]) * dpr)
        if [name for name in values if name in ("size", "w")][-1] == "w":
            box, label = SizeSpec(f"w{width}", width, None), f"w{width}"
    extension_format = None if extension is None else _choice("extension", extension.lower(), NAMES)
    fmt = _format(values["format"]) if "format" in values else extension_format
    removed = _choice("bg", values.get("bg", "original"), {"original": False, "removed": True})
    if removed and fmt is Format.JPEG:
        raise BadParameter(
            "format", "avif, webp, png or auto with bg=removed: JPEG has no transparency"
        )
    return VariantRequest(box, label, fmt, removed, values.get("v"))


def parse_boxes(raw_query: str, *, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    """Read which sizes a purge names into boxes: named ones at every dpr, rungs of widths; or none.

    Each that is named counts, and nothing is passed over, as a request for a picture does: what is
    not understood would purge more than was meant.

    Raises:
        BadParameter: a parameter or its value is not allowed; it says which are.
    """
    pairs = (unquote_plus(pair).partition("=") for pair in _SEPARATORS.split(raw_query) if pair)
    return tuple(box for name, _, value in pairs for box in _boxes(name, value, sizes))


def _boxes(name: str, value: str, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    if name == "size":
        return named_boxes(value, sizes)
    if name != "w":
        raise BadParameter("query", "empty, or made of size= and w= alone")
    width = snap(_width(value))
    return (SizeSpec(f"w{width}", width, None),)


def named_boxes(name: str, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    """The boxes that a named size has, one for each dpr.

    Raises:
        BadParameter: there is no such size; it says which there are.
    """
    size = _choice("size", name, sizes)
    return tuple(size.scaled(dpr) for dpr in DPRS.values())


def _choice(parameter: str, value: str, allowed: Mapping[str, _T]) -> _T:
    try:
        return allowed[value]
    except KeyError:
        raise BadParameter(parameter, "one of " + ", ".join(allowed)) from None


def _format(value: str) -> Format | None:
    return _choice("format", value.lower(), {"auto": None, **NAMES})


def _width(value: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(value) or not 1 <= int(value) <= WIDTHS[-1]:
        raise BadParameter("w", f"a whole number from 1 to {WIDTHS[-1]}")
    return int(value)


def snap(width: float) -> int:
    """The smallest width of the ladder that is not below ``width``; its top for all beyond."""
    return next((rung for rung in WIDTHS if rung >= width), WIDTHS[-1])


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


@dataclass(frozen=True)
class Variant:
    """One picture as it goes out, fully resolved; equal variants have equal keys."""

    media_id: int
    version: str
    """Content hash of the source."""
    geometry: Geometry
    profile: EncoderProfile
    background_removed: bool
    animated: bool
    recipe: str
    """Version of this code's own parameters and of libvips."""
    search: QualitySearch | None = None
    """How the quality is found, where the profile does not fix it."""
    rival: Stage | None = None
    """Another format that goes out in place of this one where it comes out smaller."""
    base: tuple[int, int] | None = None
    """The size whose pixels this one is made of; None where it is made of the source's own."""

    @property
    def stage(self) -> Stage:
        """How it is encoded."""
        return Stage(self.profile, self.search)

    @property
    def pixels(self) -> int:
        """Of one page."""
        return self.geometry.width * self.geometry.height

    @property
    def format(self) -> Format:
        """The format that goes out, unless the rival is smaller."""
        return self.profile.format

    @cached_property
    def key(self) -> str:
        """Canonical text of the variant: a pure function of all that decides its bytes."""
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
        yield self.stage.text
        if self.rival is not None:
            yield f"or:{self.rival.text}"
        if self.base is not None:
            yield f"of:{self.base[0]}x{self.base[1]}"

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of the key: a file name, and the ETag's content.

        The first 8 are the shape: so a store finds what a medium has in one size, whatever the
        format, the stage and the release that made it.
        """
        return self.geometry.shape + blake2b(self.key.encode(), digest_size=12).hexdigest()

    @cached_property
    def etag(self) -> str:
        """Strong ETag (RFC 9110, 8.8.3), equal on every node."""
        return f'"{self.digest}"'


Shapes = Collection[str] | None
"""Of which shapes renditions are purged; None for all."""


def has_shape(digest: str, shapes: Shapes) -> bool:
    """Whether the digest of a variant is one of these shapes."""
    return shapes is None or digest[:SHAPE_DIGITS] in shapes


def shapes_of(boxes: Iterable[SizeSpec], facts: MediaFacts) -> frozenset[str]:
    """The shapes that a picture has in these boxes; two boxes may give it the same."""
    return frozenset(plan_geometry(box, facts).shape for box in boxes)


def recipe(libvips_version: str, *, copyright_notice: str | None = None) -> str:
    """The part of every key that stands for the code that made the pixels, and its mark on them."""
    code = f"r{_RECIPE}-vips{libvips_version}"
    if not copyright_notice:
        return code
    return f"{code}-c{blake2b(copyright_notice.encode(), digest_size=8).hexdigest()}"


def base_size(boxes: Iterable[SizeSpec], facts: MediaFacts) -> tuple[int, int]:
    """The largest size that a picture has in these boxes, whose pixels serve for the others."""
    geometries = (plan_geometry(box, facts) for box in boxes)
    return max((one.scaled_width, one.scaled_height) for one in geometries)


def resolve(
    request: VariantRequest,
    media: Media,
    facts: MediaFacts,
    *,
    stage: Stage,
    recipe: str,
    rival: Stage | None = None,
    base: tuple[int, int] | None = None,
) -> Variant:
    """Resolve a checked request against a picture and the encoding that was chosen for it.

    ``bg=removed`` on a picture without a flat background resolves to the original, so that the
    two share one rendition. What is as large as the ``base`` is made of the source itself.
    """
    animated = facts.animated and stage.profile.format in (Format.WEBP, Format.GIF)
    geometry = plan_geometry(request.box, facts)
    within = base is not None and geometry.scaled_width < base[0]
    return Variant(
        media_id=media.id,
        version=facts.content_hash,
        geometry=geometry,
        profile=stage.profile,
        background_removed=request.remove_background and facts.flat_background,
        animated=animated,
        recipe=recipe,
        search=stage.search,
        rival=rival,
        base=base if within and not animated else None,
    )
