"""Explaining: why a browser gets the format that it gets, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.domain.formats import TRAITS, Format
from proxy.domain.negotiation import AcceptRanges, acceptable, fallback, parse_accept

_SHOWN = {
    Format.AVIF: "AVIF",
    Format.WEBP: "WebP",
    Format.JPEG: "JPEG",
    Format.PNG: "PNG",
    Format.GIF: "GIF",
}


def explain(accept: str, order: Sequence[Format], *, transparent: bool = False) -> dict[str, Any]:
    """What an Accept header says of each format, which one goes out, and why that one."""
    accepted = parse_accept(accept)
    welcome = acceptable(accept, order=order, transparent=transparent, animated=False)
    last = fallback(transparent=transparent, animated=False)
    listed = list(dict.fromkeys([last if fmt is Format.JPEG else fmt for fmt in order]))
    return {
        "accept": accept,
        "chosen": welcome[0],
        "formats": [
            {
                "format": fmt,
                "media_type": TRAITS[fmt].media_type,
                "quality": accepted.quality(fmt),
                "named": TRAITS[fmt].media_type in accepted.ranges,
                "verdict": _verdict(fmt, accepted, last=last, chosen=welcome[0]),
            }
            for fmt in listed
        ],
        "why": _why(welcome, accepted, last=last),
    }


def _verdict(fmt: Format, accepted: AcceptRanges, *, last: Format, chosen: Format) -> str:
    if fmt is chosen:
        return "goes out"
    if fmt is last:
        return "kept for browsers that name nothing better"
    quality = accepted.ranges.get(TRAITS[fmt].media_type)
    if quality is None:
        return "not named: * and image/* do not count, old browsers send them too"
    return "welcome, but another comes first" if quality else "named with q=0: refused"


def _why(welcome: Sequence[Format], accepted: AcceptRanges, *, last: Format) -> str:
    chosen, name = welcome[0], _SHOWN[welcome[0]]
    if chosen is last and len(welcome) == 1:
        return f"No newer format is named, so {name} goes out, which every browser shows."
    if len(welcome) == 1:
        return f"{name} is the only format that the header welcomes."
    rivals = [fmt for fmt in welcome[1:] if accepted.quality(fmt) == accepted.quality(chosen)]
    if rivals:
        *some, last_one = [name, *(_SHOWN[fmt] for fmt in rivals)]
        return (
            f"{', '.join(some)} and {last_one} are equally welcome; the server prefers {name}"
            " (encoders.order), as it is usually the smallest."
        )
    return f"The header prefers {name} by its q-value."
