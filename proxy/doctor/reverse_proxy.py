"""Checks of a reverse proxy or CDN: its responses are compared with the server's own."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from proxy.doctor.check import CheckBlocked, Finding, fail, ok, skip, warn
from proxy.doctor.formatting import as_bytes, as_time
from proxy.doctor.http_client import HttpProbe, ProbeResponse
from proxy.doctor.image_requests import PART_BYTES, ImageResponses, allowed_types, request_image
from proxy.doctor.installation import Installation
from proxy.doctor.proxy_fixes import (
    CLOSED,
    ETAG,
    FORMATS,
    FORWARDED,
    LIFETIME,
    RANGE,
    REACH,
    VARY,
    ReverseProxy,
    advice,
    detect,
)
from proxy.domain.errors import NoAnswer
from proxy.domain.media import MAX_MEDIA_ID, Media

_MODERN = frozenset({"image/avif", "image/webp"})
_PROBLEM = "application/problem+json"
_UNUSED = f"{MAX_MEDIA_ID}/renditions"
"""Of an id that no image or user has: a request that is passed on deletes nothing."""
_PRIVATE = (
    ("DELETE", f"/api/media/{_UNUSED}"),
    ("DELETE", f"/api/users/{_UNUSED}"),
    ("GET", "/api/media/pending/all"),
    ("GET", "/metrics"),
)
_HEALTH = (("GET", "/readyz"), ("GET", "/healthz"))


@dataclass(frozen=True, slots=True)
class ProxiedResponses:
    """Responses for one image through the reverse proxy, and the server's own."""

    installation: Installation
    probe: HttpProbe
    vendor: ReverseProxy
    media: Media
    proxied: ImageResponses
    direct: ImageResponses

    def fix(self, nginx: str) -> str:
        """Return the advice for this vendor."""
        return advice(self.vendor, nginx)


async def inspect(installation: Installation) -> ProxiedResponses:
    """Request through the proxy the image that was requested from the server itself."""
    probe, media, direct = installation.public, installation.media, installation.responses
    if probe is None:
        raise CheckBlocked(skip("there is no reverse proxy (--public, server.public_url)"))
    if media is None or direct is None:
        raise CheckBlocked(skip("the server's own responses, to compare with, are missing"))
    # New in every run: a cached response of an earlier one would hide a corrected fault.
    token = secrets.token_hex(4)
    try:
        proxied = await request_image(probe, media.id, token)
        if _opaque(proxied.named) != direct.named.header("ETag"):
            # A final may have replaced the draft since the server was requested.
            direct = await request_image(installation.server, media.id, token)
    except NoAnswer as error:
        text = (
            "is the reverse proxy running, does its name resolve to it, and is its certificate"
            f" valid? Otherwise {advice(ReverseProxy.NGINX, REACH)}"
        )
        raise CheckBlocked(fail(f"{probe.base}: {error.detail}", text)) from error
    first = proxied.negotiated["chrome"]
    vendor = detect(first)
    if first.status != HTTPStatus.OK or not first.media_type.startswith("image/"):
        text = f"{probe.base}: an image is answered {first.status} {first.media_type}"
        # A redirect from http to https, or to another host.
        if location := first.header("Location"):
            finding = fail(f"{text}, to {location}", "name that address with --public")
        else:
            finding = fail(text, advice(vendor, REACH))
        raise CheckBlocked(finding)
    return ProxiedResponses(installation, probe, vendor, media, proxied, direct)


def check_reach(seen: ProxiedResponses) -> Finding:
    """Report which proxy was detected and how long an image takes."""
    seconds = seen.proxied.negotiated["chrome"].seconds
    return ok(f"{seen.probe.base}, {seen.vendor}: an image in {as_time(seconds)}")


def check_formats(seen: ProxiedResponses) -> Finding:
    """Report a cache that stores one copy for all clients, or one that hides Accept."""
    allowed = allowed_types(seen.installation.settings.encoders, seen.media)
    types = seen.proxied.types
    text = ", ".join(f"{client} {kind}" for client, kind in types.items())
    wrong = [client for client, kind in types.items() if kind not in allowed[client]]
    if not wrong:
        return ok(text)
    # AVIF or WebP for a client that cannot show it is a broken image; JPEG is only larger.
    if broken := [client for client in wrong if types[client] in _MODERN]:
        text = f"one copy for all clients: {text}; {' and '.join(broken)} cannot show it"
        return fail(text, seen.fix(FORMATS))
    return warn(f"not the best format: {text}", seen.fix(FORMATS))


def check_vary(seen: ProxiedResponses) -> Finding:
    """Report a Vary that is removed where the format is negotiated, or added where it is not."""
    negotiated, named = seen.proxied.negotiated["chrome"], seen.proxied.named
    values = [answer.header("Vary") or "none" for answer in (negotiated, named)]
    text = f"negotiated: {values[0]}; named: {values[1]}"
    if not _varies(negotiated):
        return fail(f"{text}; the server sends Accept", seen.fix(VARY))
    if _varies(named):
        return warn(f"{text}; the server sends none if the URL names the format", seen.fix(VARY))
    return ok(text)


def _varies(answer: ProbeResponse) -> bool:
    """Return whether the response depends on Accept, by its Vary."""
    fields = {name.strip().lower() for name in answer.header("Vary").split(",")}
    return bool(fields & {"accept", "*"})


def _opaque(answer: ProbeResponse) -> str:
    """Return the ETag without its weakness prefix (RFC 9110, 8.8.3)."""
    return answer.header("ETag").removeprefix("W/")


def check_etag(seen: ProxiedResponses) -> Finding:
    """Report an ETag that is removed, weakened or replaced, and a failed revalidation."""
    expected, etag = seen.direct.named.header("ETag"), seen.proxied.named.header("ETag")
    status = seen.proxied.revalidated.status
    text = f"{etag or 'no ETag'}, revalidated with {status}"
    if not etag:
        return fail(f"{text}; the server sends {expected}", seen.fix(ETAG))
    # A proxy that compresses invalidates the ETag, or weakens it below.
    if status != HTTPStatus.NOT_MODIFIED:
        return fail(f"{text}: each visitor downloads the image again", seen.fix(ETAG))
    # Weak ETags revalidate, but do not allow ranges (RFC 9110, 13.1.5).
    if etag.startswith("W/"):
        return warn(f"{text}: weakened", seen.fix(ETAG))
    if etag != expected:
        return warn(f"{text}; the server sends {expected}", seen.fix(ETAG))
    return ok(text)


def check_lifetime(seen: ProxiedResponses) -> Finding:
    """Report a Cache-Control that was changed."""
    expected, found = (one.named.header("Cache-Control") for one in (seen.direct, seen.proxied))
    if found == expected:
        return ok(found)
    # Draft and final have different lifetimes.
    if _opaque(seen.proxied.named) != _opaque(seen.direct.named):
        return skip("the proxy and the server sent different renditions")
    return fail(f"{found or 'none'}; the server sends {expected}", seen.fix(LIFETIME))


def check_range(seen: ProxiedResponses) -> Finding:
    """Report range requests that are answered with the whole image."""
    part = seen.proxied.part
    text = f"{part.status} with {as_bytes(len(part.body))} of {PART_BYTES}"
    # Any 206 of another length would be wrong too.
    if part.status == HTTPStatus.PARTIAL_CONTENT and len(part.body) == PART_BYTES:
        return ok(text)
    return warn(f"{text}: Range is not passed on", seen.fix(RANGE))


async def check_closed(seen: ProxiedResponses) -> Finding:
    """Report private routes that are reachable through the proxy."""
    # Concurrently: a proxy that drops requests lets each of them time out.
    private, health = [
        [
            route
            for route in await asyncio.gather(*(_reachable(seen, *one) for one in routes))
            if route
        ]
        for routes in (_PRIVATE, _HEALTH)
    ]
    if not private and not health:
        return ok("health checks, metrics and routes with a key are closed")
    text = f"open to strangers: {', '.join([*private, *health])}"
    return (fail if private else warn)(text, seen.fix(CLOSED))


async def _reachable(seen: ProxiedResponses, method: str, target: str) -> str:
    """Return the route if the server itself answered; a proxy refuses in its own format.

    The server's own 404 means that the settings disable the route.
    """
    answer = await _request(seen, target, method)
    if answer is None or answer.status == HTTPStatus.NOT_FOUND:
        return ""
    # problem+json, metrics, or the status of a health check come from the server only.
    ours = answer.media_type == _PROBLEM or b"smartserve_" in answer.body
    return f"{method} {target}" if ours or "status" in answer.json() else ""


async def _request(seen: ProxiedResponses, target: str, method: str) -> ProbeResponse | None:
    """Return the response; None if the proxy closes the connection, which also denies access."""
    with suppress(NoAnswer):
        return await seen.probe.request(target, method=method)
    return None


async def check_forwarded(seen: ProxiedResponses) -> Finding:
    """Report a proxy that does not set X-Forwarded-For, by the 401 to an upload without a token.

    The request has no body: nothing is uploaded.
    """
    answer = await _request(seen, "/users/me", "PATCH")
    if seen.vendor is ReverseProxy.NOBODY:
        return skip("there is no reverse proxy at this address")
    if answer is None or (answer.status, answer.media_type) != (HTTPStatus.UNAUTHORIZED, _PROBLEM):
        return skip("uploads are not passed on, and only their responses show it")
    if answer.json().get("forwarded") is True:
        return ok("X-Forwarded-For is set")
    text = "X-Forwarded-For is not set: wrong keys of strangers count as those of this machine"
    return fail(text, seen.fix(FORWARDED))
