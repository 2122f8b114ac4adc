"""Content negotiation: the formats that an Accept header allows (RFC 9110, 12.5.1), and why.

All functions are pure and never raise. AVIF and WebP are only sent if the header names
``image/avif`` or ``image/webp`` with q > 0. The ranges ``*/*`` and ``image/*`` do not count for
them: old Safari, curl and crawlers send these and cannot display the formats. Every client can
display the fallback.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from proxy.domain.formats import TRAITS, Format

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
    return _parse(_bounded(header))


def _bounded(header: str) -> str:
    if len(header) > _MAX_ACCEPT:
        # The last element may have lost its q-value and would then have another meaning.
        return header[:_MAX_ACCEPT].rpartition(",")[0]
    return header


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
    return _acceptable(_bounded(accept or ""), tuple(order), transparent, animated)


@lru_cache(maxsize=1024)
def _acceptable(
    accept: str,
    order: tuple[Format, ...],
    transparent: bool,  # noqa: FBT001 - a cache key
    animated: bool,  # noqa: FBT001
) -> tuple[Format, ...]:
    # Cached: clients send few different headers, and every plan needs this.
    accepted = _parse(accept)
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


def explain(
    accept: str, order: Sequence[Format], *, transparent: bool = False, animated: bool = False
) -> dict[str, Any]:
    """Return what an Accept header says about each format, the chosen format, and the reason.

    ``transparent`` and ``animated`` describe the image, as for `acceptable`.
    """
    accepted = parse_accept(accept)
    candidates = acceptable(accept, order=order, transparent=transparent, animated=animated)
    last = fallback(transparent=transparent, animated=animated)
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
                "verdict": "not used for animations"
                if animated and not TRAITS[fmt].animation
                else _verdict(fmt, accepted, last=last, chosen=candidates[0]),
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
