"""Explanation of a content negotiation, for the page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.domain.formats import TRAITS, Format
from proxy.domain.negotiation import AcceptRanges, acceptable, fallback, parse_accept


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
                "quality": accepted.quality(fmt),
                "named": TRAITS[fmt].media_type in accepted.ranges,
                "verdict": _verdict(fmt, accepted, last=last, chosen=candidates[0]),
            }
            for fmt in listed
        ],
        "why": _reason(candidates, accepted, last=last),
    }


def _verdict(fmt: Format, accepted: AcceptRanges, *, last: Format, chosen: Format) -> str:
    if fmt is chosen:
        return "sent"
    if fmt is last:
        return "fallback for browsers that name no newer format"
    quality = accepted.ranges.get(TRAITS[fmt].media_type)
    if quality is None:
        return "not named; * and image/* do not count, because old browsers send them too"
    return "accepted, but another format has priority" if quality else "rejected with q=0"


def _reason(candidates: Sequence[Format], accepted: AcceptRanges, *, last: Format) -> str:
    chosen, name = candidates[0], _display_name(candidates[0])
    if len(candidates) == 1:
        if chosen is last:
            return f"The header names no newer format. Every browser displays {name}."
        return f"{name} is the only format that the header accepts."
    quality = accepted.quality(chosen)
    equal = [_display_name(fmt) for fmt in candidates[1:] if accepted.quality(fmt) == quality]
    if not equal:
        return f"The header prefers {name} by its q-value."
    *some, final = [name, *equal]
    return (
        f"The header accepts {', '.join(some)} and {final} equally. The server prefers {name}"
        " (encoders.order), which is usually the smallest."
    )


def _display_name(fmt: Format) -> str:
    return "WebP" if fmt is Format.WEBP else fmt.value.upper()
