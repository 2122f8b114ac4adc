"""Content negotiation: an Accept header to the format that goes out (RFC 9110, 12.5.1).

Only an explicit ``image/avif`` or ``image/webp`` with q > 0 can select those two: ``*/*`` and
``image/*`` are sent by clients that cannot show them (old Safari, curl, crawlers). Everything else
comes down to the fallback, which every client shows. Nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from proxy.domain.formats import TRAITS, Format

_EXPLICIT_ONLY = frozenset({Format.AVIF, Format.WEBP})

# One element of a comma-separated list: quoted strings may hold commas and semicolons. One that
# is never closed swallows the rest, so that each character is looked at once: hostile quotes cost
# no more than others.
_QUOTED = r'"(?:[^"\\]|\\.)*+"?'
_ELEMENT = re.compile(rf'(?:[^,"]|{_QUOTED})+', re.DOTALL)
_PARAMETER = re.compile(rf'(?:[^;"]|{_QUOTED})+', re.DOTALL)
_BLANK = " \t"
_QVALUE = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)

_MAX_ACCEPT = 2048
"""Longer headers are cut, between two elements: no browser comes near, and the work per request
stays bounded."""


@dataclass(frozen=True, slots=True)
class AcceptRanges:
    """A parsed Accept header: the q-value of each media range that it names."""

    ranges: Mapping[str, float]

    def explicit(self, fmt: Format) -> float:
        """The q-value that the header gives to exactly this format; 0 where it does not name it."""
        return self.ranges.get(TRAITS[fmt].media_type, 0.0)

    def quality(self, fmt: Format) -> float:
        """The q-value of a format by the most specific range that matches it."""
        if fmt in _EXPLICIT_ONLY:
            return self.explicit(fmt)
        for media_range in (TRAITS[fmt].media_type, "image/*", "*/*"):
            if media_range in self.ranges:
                return self.ranges[media_range]
        return 0.0


def _element(text: str) -> tuple[str, float] | None:
    """Parse one element; None where it is malformed or carries parameters other than q.

    A range with parameters of its own matches only a representation that has them, and ours have
    none.
    """
    media_range, _, rest = text.partition(";")
    parameters = (part.strip(_BLANK) for part in _PARAMETER.findall(rest))
    quality = 1.0
    for parameter in filter(None, parameters):
        name, _, value = (part.strip(_BLANK) for part in parameter.partition("="))
        if name.lower() != "q" or not _QVALUE.fullmatch(value):
            return None
        quality = float(value)
    return media_range.strip(_BLANK).lower(), quality


def parse_accept(header: str) -> AcceptRanges:
    """Parse an Accept header; a range named twice counts with its lowest q-value."""
    return _parse(_cut(header))


@lru_cache(maxsize=1024)
def _parse(header: str) -> AcceptRanges:
    ranges: dict[str, float] = {}
    for text in _ELEMENT.findall(header):
        if (element := _element(text)) is not None:
            media_range, quality = element
            ranges[media_range] = min(quality, ranges.get(media_range, 1.0))
    return AcceptRanges(MappingProxyType(ranges))


def _cut(header: str) -> str:
    """As much of a header as is read; an element without its q would say something else."""
    if len(header) <= _MAX_ACCEPT:
        return header
    return header[:_MAX_ACCEPT].rpartition(",")[0]


def fallback(*, transparent: bool, animated: bool) -> Format:
    """The format that every client shows and that loses nothing of the picture."""
    if animated:
        return Format.GIF
    return Format.PNG if transparent else Format.JPEG


def negotiate(
    accept: str | None,
    *,
    order: Sequence[Format],
    transparent: bool,
    animated: bool,
) -> Format:
    """The best of what `acceptable` gives."""
    return acceptable(accept, order=order, transparent=transparent, animated=animated)[0]


def acceptable(
    accept: str | None,
    *,
    order: Sequence[Format],
    transparent: bool,
    animated: bool,
) -> tuple[Format, ...]:
    """The formats that may go out, the highest q-value first; the server's ``order`` breaks ties.

    ``transparent`` and ``animated`` describe the picture that goes out: what cannot carry it is no
    candidate. The fallback goes out where nothing else is asked for, and also where the header
    excludes everything: a picture is of more use than a 406.
    """
    accepted = parse_accept(accept or "")
    last = fallback(transparent=transparent, animated=animated)
    asked = [
        fmt
        for fmt in order
        if fmt in _EXPLICIT_ONLY
        and accepted.explicit(fmt) > 0
        and (TRAITS[fmt].animation or not animated)
    ]
    if not asked:
        return (last,)
    welcome = [last] if accepted.quality(last) > 0 else []
    best_first = sorted(
        [*asked, *welcome], key=lambda fmt: (-accepted.quality(fmt), _rank(fmt, order))
    )
    return tuple(best_first)


def _rank(fmt: Format, order: Sequence[Format]) -> int:
    """Place in the server's order; PNG and GIF stand in for JPEG and share its place."""
    if fmt in (Format.PNG, Format.GIF):
        fmt = Format.JPEG
    return order.index(fmt) if fmt in order else len(order)
