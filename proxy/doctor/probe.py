"""HTTP requests of the doctor: raw responses, and the requests for one image that are compared."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from multidict import MultiMapping
from yarl import URL

from proxy.domain.errors import NoAnswer
from proxy.domain.formats import TRAITS
from proxy.domain.media import Media
from proxy.domain.negotiation import acceptable
from proxy.domain.urls import image_url
from proxy.runtime.http_client import open_session
from proxy.settings import EncoderSettings

ACCEPT: Mapping[str, str] = {
    "chrome": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    "safari": "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
    "anything": "*/*",
}
"""Accept headers by client; Safari's is that of versions 14 and 15, which cannot show AVIF."""
PART_BYTES = 10
_HEADERS = {
    "User-Agent": "smartserve-doctor",
    "Accept": "*/*",
    # As browsers send it, so that a proxy that compresses images is detected.
    "Accept-Encoding": "gzip, deflate, br, zstd",
}
_WIDTH = 64
"""In pixels; small, because it is rendered for this check and stored by caches."""
_ATTEMPTS = 4
_ANY_KIND = ((False, False), (True, False), (False, True))
"""Transparency and animation of an image whose facts are not stored yet."""


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """A response; its body is not decompressed."""

    status: int
    headers: MultiMapping[str]
    body: bytes
    seconds: float
    """From connecting to the last byte of the response."""

    def header(self, name: str) -> str:
        """Return the lines of a header joined by commas (RFC 9110, 5.2); empty if it is absent."""
        return ", ".join(self.headers.getall(name, ()))

    @property
    def media_type(self) -> str:
        """The media type in lower case, without its parameters."""
        return self.header("Content-Type").partition(";")[0].strip().lower()

    def json(self) -> Mapping[str, object]:
        """Return the JSON object in the body; empty if it is something else."""
        with suppress(ValueError):
            found = json.loads(self.body)
            return found if isinstance(found, dict) else {}
        return {}


class HttpProbe:
    """Sends requests to one server, each over a connection of its own."""

    def __init__(self, base: str, *, timeout_s: float) -> None:
        """Requests to ``base`` are given up after ``timeout_s``."""
        self.base = base.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def request(
        self, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> ProbeResponse:
        """Send a request without a body; follow no redirect, and leave ``target`` as it is.

        Raises:
            NoAnswer: there is no response in time.
        """
        started = time.monotonic()
        try:
            async with (
                open_session(_HEADERS) as session,
                session.request(
                    method,
                    # encoded=True: yarl would normalise the query, which is part of cache keys.
                    URL(f"{self.base}{target}", encoded=True),
                    headers=headers,
                    allow_redirects=False,
                    auto_decompress=False,
                    timeout=self._timeout,
                ) as response,
            ):
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NoAnswer(_reason(error)) from error
        seconds = time.monotonic() - started
        return ProbeResponse(response.status, response.headers, body, seconds)

    async def handshake(self, target: str) -> int:
        """Return the status of the answer to a WebSocket's handshake; close it if it opens.

        Raises:
            NoAnswer: there is no response in time.
        """
        try:
            async with (
                asyncio.timeout(self._timeout.total),
                open_session(_HEADERS) as session,
                session.ws_connect(URL(f"{self.base}{target}", encoded=True)),
            ):
                return HTTPStatus.SWITCHING_PROTOCOLS
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NoAnswer(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return which part of the connection failed: resolver, connection, TLS, HTTP, or the URL."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    # Event loops put words of their own around the system's text. The number of a TLS error is not
    # the system's, and that of the resolver is negative.
    number = getattr(error, "errno", None) or 0
    if number > 0 and not isinstance(error, aiohttp.ClientSSLError):
        return os.strerror(number)
    return f"{type(error).__name__}: {error}".rstrip(": ")


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

    @property
    def listed(self) -> str:
        """The clients and their media types, for a finding."""
        return ", ".join(f"{client} {kind}" for client, kind in self.types.items())


async def request_image(probe: HttpProbe, media_id: int) -> ImageResponses:
    """Request an image as browsers and caches do.

    Raises:
        NoAnswer: a request was not answered.
    """
    # New in every run: a cached response of an earlier one would hide a corrected fault.
    token = {"doctor": secrets.token_hex(4)}
    url = image_url(media_id, width=_WIDTH, extra=token)
    named_url = image_url(media_id, width=_WIDTH, extra=token, fmt="webp")
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


def allowed_types(encoders: EncoderSettings, media: Media) -> Mapping[str, set[str]]:
    """Return the media types that each client of `ACCEPT` may receive."""
    facts = media.known_facts
    # Transparency and animation decide the format: JPEG has neither.
    kinds = ((facts.has_alpha, facts.animated),) if facts else _ANY_KIND
    # Under smallest_wins the server may send either of the two best formats.
    best = 2 if encoders.prefer_smallest else 1
    order = encoders.order
    return {
        client: {
            TRAITS[fmt].media_type
            for alpha, animated in kinds
            for fmt in acceptable(accept, order=order, transparent=alpha, animated=animated)[:best]
        }
        for client, accept in ACCEPT.items()
    }
