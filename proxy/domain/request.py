"""Requests for images: their parameters, and the outcome that is recorded of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, TypeVar
from urllib.parse import unquote_plus

from proxy.domain.errors import BadParameter
from proxy.domain.formats import NAMES, Format
from proxy.domain.signature import UrlSignature, read_signature, rendition_text
from proxy.domain.variant import SizeSpec, Variant

DEFAULT_SIZE = "detail"
DPRS: Mapping[str, float] = {"1": 1.0, "1.5": 1.5, "2": 2.0, "3": 3.0}
WIDTHS = (16, 32, 48, 64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840)
"""Widths to which ``w`` is rounded up: the default image and device sizes of Next.js.

A closed set limits how many renditions an image can have."""

_FOREIGN = (
    # Names that most servers share.
    " width height h q quality fm fmt f auto fit mode crop c rect resize rs zoom z scale"
    " gravity g anchor align position focus focalpoint fp blur sharp sharpen brightness"
    " contrast gamma hue saturation sepia grayscale monochrome invert tint colorize"
    " opacity o flip flop or orient orientation rot rotate rotation angle a trim pad"
    " padding border radius r mask watermark mark overlay background background_color"
    " bgcolor fill effect e filter filters frame page pages pg loop fps dpi density dn"
    " lossless strip enlarge upscale ext preset x y"
    # imgix, and others with parameters in the query: Cloudflare, Fastly, Sanity, Contentful.
    " ar aspect_ratio max-w max-h min-w min-h maxwidth maxheight minwidth minheight"
    " withoutenlargement fp-x fp-y fp-z fp-debug faceindex facepad usm usmrad bri con exp"
    " gam high sat shad vib hue-rotate duotone duotone-alpha htn px transparency"
    " trim-color trim-md trim-pad trim-sd trim-tol pad-top pad-right pad-bottom pad-left"
    " pad_color border-bottom border-left border-radius border-radius-inner border-right"
    " border-top corner-radius mask-bg mark-align mark-alpha mark-fit mark-h mark-pad"
    " mark-rot mark-scale mark-tile mark-w mark-x mark-y blend blend-align blend-alpha"
    " blend-color blend-crop blend-fit blend-h blend-mode blend-pad blend-size blend-w"
    " blend-x blend-y txt txt-align txt-color txt-fit txt-font txt-size cs chromasub"
    " colorquant colors palette cl nr nrs fill-color fill-gen bg-color bg-remove bg-blur"
    " crop_gravity smart anim tr im imwidth imheight impolicy imdensity twic class"
    # imgproxy's options and their abbreviations.
    " resizing_type rt resizing_algorithm ra min-width mw min-height mh el extend ex"
    " extend_aspect_ratio extend_ar exar objects_position obj_pos op crop_aspect_ratio"
    " crop_ar car pd auto_rotate fl background_alpha bga adjust br co sa mc dt bl sh"
    " pixelate pix unsharp_masking ush blur_detections bd draw_detections dd col gradient"
    " gr wm wmu wms wm_rot wmr wmsh style st strip_metadata sm strip_color_profile scp"
    " enforce_thumbnail eth format_quality fq autoquality aq max_bytes mb jpeg_options"
    " jpgo png_options pngo webp_options webpo avif_options avifo disable_animation da raw"
    " pr"
    # Options and filters of imagor and thumbor.
    " fit-in full-fit-in adaptive-fit-in stretch halign valign convolution cover curve"
    " equalize extract_focal focal format_to max_frames no_upscale noise proportion"
    " red_eye rgb round_corner strip_exif strip_icc to_colorspace label"
    # Cloudinary's transformations.
    " b bo dl du eo so l layer u underlay color_space default_image transformation"
)
FOREIGN_PARAMETERS = frozenset(_FOREIGN.split())
"""Names, in lower case, of parameters that change the image at other servers and have no effect
here. Left out are names that usually sign a URL or bypass caches: ``s``, ``t``, ``d``, ``p``."""

_BACKGROUNDS = {"original": False, "removed": True}

_T = TypeVar("_T")

# A `?` separates parameters like `&`, also percent-encoded: front ends append `?size=thumbnail` to
# URLs that end in `?size=detail`, and some encode the result once more. `&amp;` is the `&` of a URL
# that was copied from HTML or escaped twice. A `%26` alone is part of a value.
_SEPARATORS = re.compile(r"(?:&|%26)(?:amp(?:;|%3B))+|&|\?|%3F", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VariantRequest:
    """A validated request: box, format or negotiation, background."""

    box: SizeSpec
    format: Format | None = None
    """None: negotiated by the Accept header."""
    remove_background: bool | None = None
    """None: what the medium's choices say, by default not."""
    version: str | None = None
    """The ``v`` token. Only its presence has an effect, on the cache lifetime."""
    lean: bool | None = None
    """Whether client hints request fewer bytes; None: client hints are disabled."""
    signature: UrlSignature | None = None
    """Not checked by the parser. A plan has it only if it opened a private medium."""

    @property
    def negotiated(self) -> bool:
        """Whether the response depends on the Accept header."""
        return self.format is None


def _pairs(raw_query: str) -> Iterator[tuple[str, str]]:
    """Yield name, in lower case, and value of each parameter."""
    for pair in filter(None, _SEPARATORS.split(raw_query)):
        name, _, value = unquote_plus(pair).partition("=")
        yield name.lower(), value


def last_values(raw_query: str) -> dict[str, str]:
    """Return the last value of each parameter of a raw query, in the order of these values.

    Names are in lower case.
    """
    values: dict[str, str] = {}
    for name, value in _pairs(raw_query):
        # The order decides between `size` and `w`: assigning to an existing key would keep its old
        # position.
        values.pop(name, None)
        values[name] = value
    return values


@lru_cache(maxsize=256)
def ignored_parameters(raw_query: str) -> str:
    """Return which parameters of other image servers a raw query has, sorted: ``fit, h``.

    They have no effect here. Empty values count as not given.
    """
    found = {name for name, value in _pairs(raw_query) if value}
    # Exposure at imgix; beside a signature it is the expiry.
    if "sig" in found:
        found.discard("exp")
    return ", ".join(sorted(found & FOREIGN_PARAMETERS))


def parse_request(
    raw_query: str,
    *,
    sizes: Mapping[str, SizeSpec],
    extension: str | None = None,
    lean: bool | None = None,
) -> VariantRequest:
    """Parse a raw query string and the extension of the path; ``lean`` is passed on.

    Empty values and unknown parameters are ignored. The last of ``size`` and ``w`` applies, and
    ``format`` overrides the extension. Names and values may have any case.

    Raises:
        BadParameter: a value is not allowed.
    """
    values = {name: value for name, value in last_values(raw_query).items() if value}
    dpr = _choice("dpr", values.get("dpr", "1"), DPRS)
    size = _choice("size", values.get("size", DEFAULT_SIZE), sizes)
    box = size if dpr == 1 else size.scaled(dpr)
    by_width = False
    if "w" in values:
        # `w` is validated even if a later `size` replaces it: a bad value is always a 400.
        snapped = width_box(_width(values["w"]) * dpr)
        by_width = [name for name in values if name in ("size", "w")][-1] == "w"
        if by_width:
            box = snapped
    fmt = None if extension is None else _choice("extension", extension, NAMES)
    if "format" in values:
        fmt = _choice("format", values["format"], {"auto": None, **NAMES})
    removed = _choice("bg", values["bg"], _BACKGROUNDS) if "bg" in values else None
    # Negotiation never selects JPEG for a transparent image: only an explicit format conflicts.
    if removed and fmt is Format.JPEG:
        raise BadParameter(
            "format", "avif, webp, png or auto with bg=removed: JPEG has no transparency"
        )
    signature = None
    if "sig" in values:
        named = f"size={size.name}&dpr={values.get('dpr', '1')}"
        covers = rendition_text(
            box=f"w={box.width}" if by_width else named, fmt=fmt, bg=values.get("bg", "").lower()
        )
        signature = read_signature(values, raw_query, covers)
    return VariantRequest(box, fmt, removed, values.get("v"), lean, signature)


def parse_boxes(raw_query: str, *, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    """Parse the sizes of a purge into boxes: named sizes at every dpr, and widths; all count.

    Raises:
        BadParameter: a parameter or its value is not allowed.
    """
    return tuple(box for name, value in _pairs(raw_query) for box in _boxes(name, value, sizes))


def _boxes(name: str, value: str, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    if name == "size":
        return named_boxes(value, sizes)
    # An image request ignores unknown parameters. A purge that did so would delete too much.
    if name != "w":
        raise BadParameter("query", "empty, or contain only size= and w=")
    return (width_box(_width(value)),)


def named_boxes(name: str, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    """Return the boxes of a named size, one for each dpr.

    Raises:
        BadParameter: there is no such size.
    """
    size = _choice("size", name, sizes)
    return tuple(size.scaled(dpr) for dpr in DPRS.values())


def _choice(parameter: str, value: str, allowed: Mapping[str, _T]) -> _T:
    # The exact value first: two named sizes may differ by case only.
    if value in allowed:
        return allowed[value]
    for name, meaning in allowed.items():
        if name.lower() == value.lower():
            return meaning
    raise BadParameter(parameter, "one of " + ", ".join(allowed))


def _width(value: str) -> int:
    # int() also accepts signs, underscores and non-ASCII digits; the pattern does not.
    if not _WHOLE_NUMBER.fullmatch(value) or not 1 <= int(value) <= WIDTHS[-1]:
        raise BadParameter("w", f"a whole number from 1 to {WIDTHS[-1]}")
    return int(value)


def width_box(width: float) -> SizeSpec:
    """Return the box of the smallest of `WIDTHS` that is at least ``width``, or of the largest."""
    snapped = next((allowed for allowed in WIDTHS if allowed >= width), WIDTHS[-1])
    return SizeSpec(f"w{snapped}", snapped, None)


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
    code: str = ""
    """Of a metadata route: ``OK``, or the code of the error."""
    tier: str = ""
    """Of a metadata route: that of the caller, if it is known."""
    lean: bool = False
    """Whether client hints requested fewer bytes."""
