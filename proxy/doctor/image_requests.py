"""Requests for one image: as three browsers send them, and as caches do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.doctor.http_client import HttpProbe, ProbeResponse
from proxy.domain.errors import NoAnswer
from proxy.domain.formats import TRAITS, Format, acceptable
from proxy.domain.media import Media
from proxy.domain.urls import image_url
from proxy.settings import EncoderSettings

ACCEPT: Mapping[str, str] = {
    "chrome": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    "safari": "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
    "anything": "*/*",
}
"""Accept headers by client; Safari's is that of versions 14 and 15, which cannot show AVIF."""
PART_BYTES = 10
_WIDTH = 64
"""In pixels; small, because it is rendered for this check and stored by caches."""
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class ImageResponses:
    """The responses to requests for one image, in the order in which they were sent."""

    negotiated: Mapping[str, ProbeResponse]
    """Responses by the client of `ACCEPT`; all three have the same URL."""
    named: ProbeResponse
    """The URL names the format. The two below have the same URL."""
    revalidated: ProbeResponse
    """With ``If-None-Match``: the ETag of ``named``."""
    part: ProbeResponse
    """With ``Range``: the first `PART_BYTES` bytes."""

    @property
    def types(self) -> Mapping[str, str]:
        """The media type that each client received."""
        return {client: answer.media_type for client, answer in self.negotiated.items()}


async def request_image(probe: HttpProbe, media_id: int, token: str) -> ImageResponses:
    """Request an image; ``token`` becomes part of the URL, so that no cache has it yet.

    Raises:
        NoAnswer: a request was not answered.
    """
    url = image_url(media_id, width=_WIDTH, extra={"doctor": token})
    named_url = image_url(media_id, width=_WIDTH, extra={"doctor": token}, fmt="webp")
    negotiated = {
        client: await probe.request(url, headers={"Accept": accept})
        for client, accept in ACCEPT.items()
    }
    # A final may replace the draft between two requests: repeat until the ETag is stable.
    for _ in range(_ATTEMPTS):
        named = await probe.request(named_url)
        # Without an ETag the conditional request must not match anything.
        etag = named.header("ETag")
        conditional = {"If-None-Match": etag or '"none"'}
        revalidated = await probe.request(named_url, headers=conditional)
        part_range = {"Range": f"bytes=0-{PART_BYTES - 1}"}
        part = await probe.request(named_url, headers=part_range)
        if (await probe.request(named_url)).header("ETag") == etag:
            return ImageResponses(negotiated, named, revalidated, part)
    raise NoAnswer("every response has a different ETag")


def allowed_types(encoders: EncoderSettings, media: Media) -> Mapping[str, tuple[str, ...]]:
    """Return the media types that each client of `ACCEPT` may receive, the preferred one first."""
    return {client: _allowed(accept, encoders, media) for client, accept in ACCEPT.items()}


def _allowed(accept: str, encoders: EncoderSettings, media: Media) -> tuple[str, ...]:
    facts = media.known_facts
    kinds = [(facts.has_alpha, facts.animated)] if facts else _UNKNOWN
    found: dict[Format, None] = {}
    # Transparency and animation decide the format: JPEG has neither.
    for transparent, animated in kinds:
        # Under smallest_wins the server may send either of the two best formats.
        formats = acceptable(
            accept, order=encoders.order, transparent=transparent, animated=animated
        )
        found.update(dict.fromkeys(formats[: 2 if encoders.prefer_smallest else 1]))
    return tuple(TRAITS[fmt].media_type for fmt in found)


_UNKNOWN = [(False, False), (True, False), (False, True)]
"""Transparency and animation of an image whose facts are not stored yet."""
