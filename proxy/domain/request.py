"""Requests for images: their parameters, negotiation of the format, and the recorded outcome. Pure.

Negotiation (RFC 9110, 12.5.1) never raises. AVIF and WebP are only sent if the header names
``image/avif`` or ``image/webp`` with q > 0. The ranges ``*/*`` and ``image/*`` do not count for
them: old Safari, curl and crawlers send these and cannot display the formats. Every client can
display the fallback.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_plus

from proxy.domain.errors import BadParameter
from proxy.domain.formats import NAMES, TRAITS, Format
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
    box = size.scaled(dpr)
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
    # Unlike in an image request: ignoring a parameter would purge more than intended.
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


_EXPLICIT_ONLY = frozenset({Format.AVIF, Format.WEBP})

# One element of a comma-separated list. Quoted strings may contain commas and semicolons. The
# possessive quantifier makes an unclosed quote consume the rest without backtracking: parsing takes
# linear time for hostile input too.
_QUOTED = r'"(?:[^"\\]|\\.)*+"?'
_ELEMENT = re.compile(rf'(?:[^,"]|{_QUOTED})+', re.DOTALL)
_PARAMETER = re.compile(rf'(?:[^;"]|{_QUOTED})+', re.DOTALL)
_BLANK = " \t"
_QVALUE = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)

# Longer headers are cut between two elements, to bound the work per request. Browsers send about
# 100 bytes.
_MAX_ACCEPT = 2048


Accepted = Mapping[str, float]
"""A parsed Accept header: the q-value of each media range in it."""


def quality_of(fmt: Format, accepted: Accepted) -> float:
    """Return the q-value of a format by the most specific range that matches it, or else 0."""
    own = TRAITS[fmt].media_type
    ranges = (own,) if fmt in _EXPLICIT_ONLY else (own, "image/*", "*/*")
    return next((accepted[one] for one in ranges if one in accepted), 0.0)


def _element(text: str) -> tuple[str, float] | None:
    """Parse one element; None if it is malformed or has a parameter other than q."""
    media_range, _, rest = text.partition(";")
    parameters = (part.strip(_BLANK) for part in _PARAMETER.findall(rest))
    quality = 1.0
    for parameter in filter(None, parameters):
        name, _, value = (part.strip(_BLANK) for part in parameter.partition("="))
        # A range with parameters matches only representations that have them; ours have none.
        if name.lower() != "q" or not _QVALUE.fullmatch(value):
            return None
        quality = float(value)
    return media_range.strip(_BLANK).lower(), quality


def parse_accept(header: str) -> Accepted:
    """Parse an Accept header; a range that occurs twice has the lower q-value."""
    if len(header) > _MAX_ACCEPT:
        # The last element may have lost its q-value and would then have another meaning.
        header = header[:_MAX_ACCEPT].rpartition(",")[0]
    return _parse(header)


@lru_cache(maxsize=1024)
def _parse(header: str) -> Accepted:
    ranges: dict[str, float] = {}
    for text in _ELEMENT.findall(header):
        if (element := _element(text)) is not None:
            media_range, quality = element
            ranges[media_range] = min(quality, ranges.get(media_range, 1.0))
    return MappingProxyType(ranges)


def fallback(*, transparent: bool, animated: bool) -> Format:
    """Return the format that every client displays and that keeps transparency and animation."""
    if animated:
        return Format.GIF
    return Format.PNG if transparent else Format.JPEG


def acceptable(
    accept: str | None, *, order: Sequence[Format], transparent: bool, animated: bool
) -> tuple[Format, ...]:
    """Return the formats that may be sent, by descending q-value; ``order`` breaks ties.

    ``transparent`` and ``animated`` describe the resulting image: formats that cannot represent it
    are excluded. The result is never empty.
    """
    accepted = parse_accept(accept or "")
    last = fallback(transparent=transparent, animated=animated)
    able = (fmt for fmt in order if TRAITS[fmt].animation or not animated)
    named = [fmt for fmt in able if fmt in _EXPLICIT_ONLY and quality_of(fmt, accepted) > 0]
    if not named:
        # Even if the header excludes it: an image is more useful than a 406 response.
        return (last,)
    candidates = [*named, last] if quality_of(last, accepted) > 0 else named
    return tuple(
        sorted(candidates, key=lambda fmt: (-quality_of(fmt, accepted), _rank(fmt, order)))
    )


def _rank(fmt: Format, order: Sequence[Format]) -> int:
    """Return the position in the server's order; PNG and GIF have the position of JPEG."""
    # They replace JPEG for transparent and animated images.
    if fmt in (Format.PNG, Format.GIF):
        fmt = Format.JPEG
    return order.index(fmt) if fmt in order else len(order)


def explain(accept: str, order: Sequence[Format], *, transparent: bool = False) -> dict[str, Any]:
    """Return what an Accept header says about each format, the chosen format, and the reason."""
    accepted = parse_accept(accept)
    candidates = acceptable(accept, order=order, transparent=transparent, animated=False)
    last = fallback(transparent=transparent, animated=False)
    listed = list(dict.fromkeys([last if fmt is Format.JPEG else fmt for fmt in order]))
    return {
        "accept": accept,
        "chosen": candidates[0],
        "formats": [
            {
                "format": fmt,
                "media_type": TRAITS[fmt].media_type,
                "quality": quality_of(fmt, accepted),
                "named": TRAITS[fmt].media_type in accepted,
                "verdict": _verdict(fmt, accepted, last=last, chosen=candidates[0]),
            }
            for fmt in listed
        ],
        "why": _reason(candidates, accepted, last=last),
    }


def _verdict(fmt: Format, accepted: Accepted, *, last: Format, chosen: Format) -> str:
    if fmt is chosen:
        return "sent"
    if fmt is last:
        return "fallback for browsers that name no newer format"
    quality = accepted.get(TRAITS[fmt].media_type)
    if quality is None:
        return "not named; * and image/* do not count, because old browsers send them too"
    return "accepted, but another format has priority" if quality else "rejected with q=0"


def _reason(candidates: Sequence[Format], accepted: Accepted, *, last: Format) -> str:
    chosen, name = candidates[0], _display_name(candidates[0])
    if len(candidates) == 1:
        if chosen is last:
            return f"The header names no newer format. Every browser displays {name}."
        return f"{name} is the only format that the header accepts."
    quality = quality_of(chosen, accepted)
    equal = [_display_name(fmt) for fmt in candidates[1:] if quality_of(fmt, accepted) == quality]
    if not equal:
        return f"The header prefers {name} by its q-value."
    *some, final = [name, *equal]
    return (
        f"The header accepts {', '.join(some)} and {final} equally. The server prefers {name}"
        " (encoders.order), which is usually the smallest."
    )


def _display_name(fmt: Format) -> str:
    return "WebP" if fmt is Format.WEBP else fmt.value.upper()


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
