"""Requests for images: their parameters, and the outcome that is recorded of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar
from urllib.parse import unquote_plus

from proxy.domain.errors import BadParameter
from proxy.domain.formats import NAMES, Format
from proxy.domain.variant import SizeSpec, Variant

DEFAULT_SIZE = "detail"
DPRS: Mapping[str, float] = {"1": 1.0, "1.5": 1.5, "2": 2.0, "3": 3.0}
WIDTHS = (16, 32, 48, 64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840)
"""Widths to which ``w`` is rounded up: the default image and device sizes of Next.js.

A closed set limits how many renditions an image can have."""

_T = TypeVar("_T")

# A `?` separates parameters like `&`, also percent-encoded: front ends append `?size=thumbnail` to
# URLs that end in `?size=detail`, and some encode the result once more.
_SEPARATORS = re.compile(r"[&?]|%3[Ff]")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VariantRequest:
    """A validated request: box, format or negotiation, background."""

    box: SizeSpec
    format: Format | None = None
    """None: negotiated by the Accept header."""
    remove_background: bool = False
    version: str | None = None
    """The ``v`` token. Only its presence has an effect, on the cache lifetime."""

    @property
    def negotiated(self) -> bool:
        """Whether the response depends on the Accept header."""
        return self.format is None


def last_values(raw_query: str) -> dict[str, str]:
    """Return the parameters of a raw query, the last value of each, in the order of those."""
    values: dict[str, str] = {}
    for pair in _SEPARATORS.split(raw_query):
        name, _, value = unquote_plus(pair).partition("=")
        # The order decides between `size` and `w`: assigning to an existing key would keep its old
        # position.
        values.pop(name, None)
        values[name] = value
    return values


def parse_request(
    raw_query: str,
    *,
    sizes: Mapping[str, SizeSpec],
    extension: str | None = None,
) -> VariantRequest:
    """Parse a raw query string and the extension of the path.

    Empty values and unknown parameters are ignored. The last of ``size`` and ``w`` applies, and
    ``format`` overrides the extension.

    Raises:
        BadParameter: a value is not allowed.
    """
    values = {name: value for name, value in last_values(raw_query).items() if value}
    dpr = _choice("dpr", values.get("dpr", "1"), DPRS)
    size = _choice("size", values.get("size", DEFAULT_SIZE), sizes)
    box = size if dpr == 1 else size.scaled(dpr)
    if "w" in values:
        # `w` is validated even if a later `size` replaces it: a bad value is always a 400.
        snapped = width_box(_width(values["w"]) * dpr)
        if [name for name in values if name in ("size", "w")][-1] == "w":
            box = snapped
    fmt = None if extension is None else _choice("extension", extension.lower(), NAMES)
    if "format" in values:
        fmt = _choice("format", values["format"].lower(), {"auto": None, **NAMES})
    removed = _choice("bg", values.get("bg", "original"), {"original": False, "removed": True})
    # Negotiation never selects JPEG for a transparent image: only an explicit format conflicts.
    if removed and fmt is Format.JPEG:
        raise BadParameter(
            "format", "avif, webp, png or auto with bg=removed: JPEG has no transparency"
        )
    return VariantRequest(box, fmt, removed, values.get("v"))


def parse_boxes(raw_query: str, *, sizes: Mapping[str, SizeSpec]) -> tuple[SizeSpec, ...]:
    """Parse the sizes of a purge into boxes: named sizes at every dpr, and widths; all count.

    Raises:
        BadParameter: a parameter or its value is not allowed.
    """
    pairs = (unquote_plus(pair).partition("=") for pair in _SEPARATORS.split(raw_query) if pair)
    return tuple(box for name, _, value in pairs for box in _boxes(name, value, sizes))


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
    try:
        return allowed[value]
    except KeyError:
        # Without the KeyError, which contains the text of the client.
        raise BadParameter(parameter, "one of " + ", ".join(allowed)) from None


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
