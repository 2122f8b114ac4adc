"""A tour: one picture, asked for as three browsers do and in the ways that caches ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.doctor.http_client import HttpProbe, ProbeResponse
from proxy.domain.errors import NoAnswer
from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import Media
from proxy.domain.negotiation import acceptable
from proxy.domain.urls import image_url
from proxy.settings import EncoderSettings

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
SAFARI = "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"
"""Of version 14 and 15, which show no AVIF."""
ANYTHING = "*/*"

PART = "bytes=0-9"
PART_BYTES = 10
_WIDTH, _WIDER = 64, 128
"""Small ones: they are rendered for this, and caches in front keep them."""
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class ResponseTour:
    """What came back; the first three were asked for in this order, at one address."""

    chrome: ProbeResponse
    safari: ProbeResponse
    anything: ProbeResponse
    wider: ProbeResponse
    named: ProbeResponse
    """A format that the address names; the three below are of the same address."""
    head: ProbeResponse
    again: ProbeResponse
    """With the ETag of ``named``."""
    part: ProbeResponse
    """The first ten bytes."""


async def take(visitor: HttpProbe, media_id: int, mark: str) -> ResponseTour:
    """Ask for a picture; ``mark`` goes along in the address, and makes it new to every cache.

    A final that takes its draft's place meanwhile has the questions of one address asked again.

    Raises:
        NoAnswer: something was not answered.
    """
    negotiated = image_url(media_id, width=_WIDTH, extra={"doctor": mark})
    named = image_url(media_id, width=_WIDTH, extra={"doctor": mark}, fmt="webp")

    async def ask(target: str, method: str = "GET", **headers: str) -> ProbeResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await visitor.ask(target, method=method, headers=given)

    chrome = await ask(negotiated, Accept=CHROME)
    safari = await ask(negotiated, Accept=SAFARI)
    anything = await ask(negotiated, Accept=ANYTHING)
    wider = await ask(named.replace(f"w={_WIDTH}", f"w={_WIDER}"))
    for _ in range(_ATTEMPTS):
        first = await ask(named)
        head = await ask(named, "HEAD")
        again = await ask(named, If_None_Match=first.told("ETag") or '"none"')
        part = await ask(named, Range=PART)
        if (await ask(named)).told("ETag") == first.told("ETag"):
            return ResponseTour(chrome, safari, anything, wider, first, head, again, part)
    raise NoAnswer("each answer has another ETag")


def expected(accept: str, encoders: EncoderSettings, media: Media) -> tuple[str, ...]:
    """Media types that may go out to an Accept header, the likeliest first."""
    facts = media.known_facts
    kinds = [(facts.has_alpha, facts.animated)] if facts else _UNKNOWN
    found: dict[Format, None] = {}
    for transparent, animated in kinds:
        formats = acceptable(
            accept, order=encoders.order, transparent=transparent, animated=animated
        )
        found.update(dict.fromkeys(formats[: 2 if encoders.smallest_wins else 1]))
    return tuple(TRAITS[fmt].media_type for fmt in found)


_UNKNOWN = [(False, False), (True, False), (False, True)]


def allowed_types(encoders: EncoderSettings, media: Media) -> Mapping[str, tuple[str, ...]]:
    """The media types that each question of a tour may be answered with."""
    asked = {"chrome": CHROME, "safari": SAFARI, "anything": ANYTHING}
    return {name: expected(accept, encoders, media) for name, accept in asked.items()}
