"""Content negotiation: from an Accept header to formats (RFC 9110, 12.5.1). Pure; never raises.

AVIF and WebP are only sent if the header names ``image/avif`` or ``image/webp`` with q > 0. The
ranges ``*/*`` and ``image/*`` do not count for them: old Safari, curl and crawlers send these and
cannot display the formats. Every client can display the fallback.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

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

_MAX_ACCEPT = 2048
"""Longer headers are cut between two elements, to bound the work per request. Browsers send about
100 bytes."""


@dataclass(frozen=True, slots=True)
class AcceptRanges:
    """A parsed Accept header: the q-value of each media range in it."""

    ranges: Mapping[str, float]

    def explicit(self, fmt: Format) -> float:
        """Return the q-value of exactly this format; 0 if the header does not name it."""
        return self.ranges.get(TRAITS[fmt].media_type, 0.0)

    def quality(self, fmt: Format) -> float:
        """Return the q-value of a format by the most specific range that matches it."""
        if fmt in _EXPLICIT_ONLY:
            return self.explicit(fmt)
        for media_range in (TRAITS[fmt].media_type, "image/*", "*/*"):
            if media_range in self.ranges:
                return self.ranges[media_range]
        return 0.0


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


def parse_accept(header: str) -> AcceptRanges:
    """Parse an Accept header; a range that occurs twice has the lower q-value."""
    if len(header) > _MAX_ACCEPT:
        # The last element may have lost its q-value and would then have another meaning.
        header = header[:_MAX_ACCEPT].rpartition(",")[0]
    return _parse(header)


@lru_cache(maxsize=1024)
def _parse(header: str) -> AcceptRanges:
    ranges: dict[str, float] = {}
    for text in _ELEMENT.findall(header):
        if (element := _element(text)) is not None:
            media_range, quality = element
            ranges[media_range] = min(quality, ranges.get(media_range, 1.0))
    return AcceptRanges(MappingProxyType(ranges))


def fallback(*, transparent: bool, animated: bool) -> Format:
    """Return the format that every client displays and that keeps transparency and animation."""
    if animated:
        return Format.GIF
    return Format.PNG if transparent else Format.JPEG


def acceptable(
    accept: str | None,
    *,
    order: Sequence[Format],
    transparent: bool,
    animated: bool,
) -> tuple[Format, ...]:
    """Return the formats that may be sent, by descending q-value; ``order`` breaks ties.

    ``transparent`` and ``animated`` describe the resulting image: formats that cannot represent it
    are excluded. The result is never empty. If the header excludes everything, it is the fallback:
    an image is more useful than a 406 response.
    """
    accepted = parse_accept(accept or "")
    last = fallback(transparent=transparent, animated=animated)
    named = [
        fmt
        for fmt in order
        if fmt in _EXPLICIT_ONLY
        and accepted.explicit(fmt) > 0
        and (TRAITS[fmt].animation or not animated)
    ]
    if not named:
        return (last,)
    candidates = [*named, last] if accepted.quality(last) > 0 else named
    return tuple(sorted(candidates, key=lambda fmt: (-accepted.quality(fmt), _rank(fmt, order))))


def _rank(fmt: Format, order: Sequence[Format]) -> int:
    """Return the position in the server's order; PNG and GIF have the position of JPEG."""
    # They replace JPEG for transparent and animated images.
    if fmt in (Format.PNG, Format.GIF):
        fmt = Format.JPEG
    return order.index(fmt) if fmt in order else len(order)
