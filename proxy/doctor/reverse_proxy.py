"""Checks of a reverse proxy or CDN: its responses are compared with the server's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus

from proxy.doctor.check import Finding, Findings, area, as_bytes, as_time, fail, ok, skip, warn
from proxy.doctor.installation import Installation
from proxy.doctor.probe import (
    PART_BYTES,
    HttpProbe,
    ImageResponses,
    ProbeResponse,
    allowed_types,
    request_image,
)
from proxy.domain.errors import NoAnswer
from proxy.domain.media import MAX_MEDIA_ID
from proxy.settings import Settings

_NO_PROXY, _UNKNOWN = "without a proxy", "through an unknown proxy"
_VENDORS = (
    # A CDN in front of nginx comes first: its cache answers the client.
    ("through Cloudflare", "Server", "cloudflare"),
    ("through CloudFront", "Via", "cloudfront"),
    ("through Fastly", "X-Served-By", "cache-"),
    ("through Bunny", "Server", "bunny"),
    ("through nginx", "Server", "nginx"),
    # Varnish and Squid pass on the Server header of others.
    (_UNKNOWN, "Via", ""),
    (_NO_PROXY, "Server", "smartserve"),
)
"""Vendors, the header that each one sets, and the lower-case text in it."""
_CDN_FILES: Mapping[str, str] = {
    "through Cloudflare": "Cloudflare: deploy/cdn/cloudflare/worker.js",
    "through CloudFront": "CloudFront: deploy/cdn/cloudfront/function.js and cache-policy.json",
    "through Fastly": "Fastly: deploy/cdn/fastly/smartserve.vcl",
    "through Bunny": "Bunny: deploy/cdn/bunny/script.js",
}
_UPSTREAM = (
    "check the address in upstream smartserve, deploy/nginx/upstream.conf, and nginx's error.log"
)
_MODERN = frozenset({"image/avif", "image/webp"})
_PROBLEM = "application/problem+json"
_UNUSED = f"{MAX_MEDIA_ID}/renditions"
"""Of an id that no image or user has: a request that is passed on deletes nothing."""
_PRIVATE = (
    f"DELETE /api/media/{_UNUSED}",
    f"DELETE /api/users/{_UNUSED}",
    "GET /api/media/pending/all",
    "GET /metrics",
)
_HEALTH = ("GET /readyz", "GET /healthz")
_SOCKET = "/ws/analysis"


@area(
    "proxy",
    "proxy formats",
    "proxy Vary",
    "proxy ETag",
    "proxy lifetime",
    "proxy Range",
    "proxy closed",
    "proxy forwarded",
    "proxy WebSocket",
)
async def check_proxy(installation: Installation) -> Findings:
    """Request through the proxy the image that was requested from the server itself."""
    probe, media, direct = installation.public, installation.media, installation.responses
    if probe is None:
        yield skip("there is no reverse proxy (--public, server.public_url)")
        return
    if media is None or direct is None:
        yield skip("the server's own responses, to compare with, are missing")
        return
    try:
        proxied = await request_image(probe, media.id)
        # A final may have replaced the draft since the server was requested.
        if _opaque(proxied) != _opaque(direct):
            direct = await request_image(installation.server, media.id)
    except NoAnswer as error:
        advice = (
            "is the reverse proxy running, does its name resolve to it, and is its certificate"
            f" valid? Otherwise nginx: {_UPSTREAM}"
        )
        yield fail(f"{probe.base}: {error.detail}", advice)
        return
    first = proxied.negotiated["chrome"]
    vendor = detect(first)
    if first.status != HTTPStatus.OK or not first.media_type.startswith("image/"):
        text = f"{probe.base}: an image is answered {first.status} {first.media_type}"
        # A redirect from http to https, or to another host.
        if location := first.header("Location"):
            yield fail(f"{text}, to {location}", "name that address with --public")
        else:
            yield fail(text, advice_for(vendor, _UPSTREAM))
        return
    yield ok(f"{probe.base}, {vendor}: an image in {as_time(first.seconds)}")
    for found in (
        judge_formats(proxied, allowed_types(installation.settings.encoders, media)),
        judge_vary(proxied),
        judge_etag(proxied, direct),
        judge_lifetime(proxied, direct),
        judge_range(proxied.part),
        await check_closed(probe),
        await check_forwarded(probe, vendor),
        await check_sockets(probe, installation.settings),
    ):
        yield replace(found, advice=found.advice and advice_for(vendor, found.advice))


def detect(answer: ProbeResponse) -> str:
    """Return the outermost proxy by the headers that each one adds."""
    for vendor, header, mark in _VENDORS:
        value = answer.header(header).lower()
        if value and mark in value:
            return vendor
    return _UNKNOWN


def advice_for(vendor: str, nginx: str) -> str:
    """Return directives of nginx, and of the CDN: an nginx behind it may also be the cause."""
    if vendor not in _CDN_FILES:
        return f"nginx: {nginx}"
    return f"{_CDN_FILES[vendor]}, see deploy/cdn/README.md; behind it nginx: {nginx}"


def judge_formats(proxied: ImageResponses, allowed: Mapping[str, set[str]]) -> Finding:
    """Report a cache that stores one copy for all clients, or one that hides Accept."""
    advice = (
        'proxy_cache_key "$smartserve_class$smartserve_lean $request_uri"; with proxy_set_header'
        " Accept $smartserve_accept; as in deploy/nginx/cache.conf, proxy.conf and formats.conf;"
        " then empty the cache"
    )
    types = proxied.types
    wrong = [client for client, kind in types.items() if kind not in allowed[client]]
    if not wrong:
        return ok(proxied.listed)
    # AVIF or WebP for a client that cannot show it is a broken image; JPEG is only larger.
    if broken := [client for client in wrong if types[client] in _MODERN]:
        who = f"{' and '.join(broken)} cannot show it"
        return fail(f"one copy for all clients: {proxied.listed}; {who}", advice)
    return warn(f"not the best format: {proxied.listed}", advice)


def judge_vary(proxied: ImageResponses) -> Finding:
    """Report a Vary that is removed where the format is negotiated, or added where it is not."""
    advice = "remove proxy_hide_header Vary: deploy/nginx/cache.conf has proxy_ignore_headers Vary"
    negotiated, named = (
        answer.header("Vary") for answer in (proxied.negotiated["chrome"], proxied.named)
    )
    text = f"negotiated: {negotiated or 'none'}; named: {named or 'none'}"
    if not _varies(negotiated):
        return fail(f"{text}; the server sends Accept", advice)
    if _varies(named):
        return warn(f"{text}; the server sends none if the URL names the format", advice)
    return ok(text)


def _varies(vary: str) -> bool:
    """Return whether a response depends on Accept, by its Vary."""
    return not {"accept", "*"}.isdisjoint(name.strip().lower() for name in vary.split(","))


def _opaque(responses: ImageResponses) -> str:
    """Return the ETag without its weakness prefix (RFC 9110, 8.8.3)."""
    return responses.named.header("ETag").removeprefix("W/")


def judge_etag(proxied: ImageResponses, direct: ImageResponses) -> Finding:
    """Report an ETag that is removed, weakened or replaced, and a failed revalidation."""
    advice = (
        "remove image/* from gzip_types (and brotli_types) and set gzip off; for images, and"
        " remove what rewrites ETag (etag, add_header, proxy_hide_header ETag):"
        " deploy/nginx/cache.conf"
    )
    expected, etag = direct.named.header("ETag"), proxied.named.header("ETag")
    status = proxied.revalidated.status
    text = f"{etag or 'no ETag'}, revalidated with {status}"
    # Without an ETag, or if the proxy compresses and so invalidates it.
    if status != HTTPStatus.NOT_MODIFIED:
        return fail(f"{text}: each visitor downloads the image again", advice)
    # A weak one (W/) revalidates, but does not allow ranges (RFC 9110, 13.1.5).
    if etag != expected:
        return warn(f"{text}; the server sends {expected}", advice)
    return ok(text)


def judge_lifetime(proxied: ImageResponses, direct: ImageResponses) -> Finding:
    """Report a Cache-Control that was changed."""
    expected, found = (one.named.header("Cache-Control") for one in (direct, proxied))
    if found == expected:
        return ok(found)
    # Draft and final have different lifetimes.
    if _opaque(proxied) != _opaque(direct):
        return skip("the proxy and the server sent different renditions")
    advice = (
        "remove expires, proxy_hide_header Cache-Control, proxy_ignore_headers Cache-Control and"
        " add_header Cache-Control for images: deploy/nginx/cache.conf has none"
    )
    return fail(f"{found or 'none'}; the server sends {expected}", advice)


def judge_range(part: ProbeResponse) -> Finding:
    """Report range requests that are answered with the whole image."""
    text = f"{part.status} with {as_bytes(len(part.body))} of {PART_BYTES}"
    # Any 206 of another length would be wrong too.
    if part.status == HTTPStatus.PARTIAL_CONTENT and len(part.body) == PART_BYTES:
        return ok(text)
    advice = (
        "remove max_ranges 0, proxy_set_header Range and proxy_hide_header Accept-Ranges:"
        " deploy/nginx/cache.conf has none"
    )
    return warn(f"{text}: Range is not passed on", advice)


async def check_closed(probe: HttpProbe) -> Finding:
    """Report private routes that are reachable through the proxy."""
    # Concurrently: a proxy that drops requests lets each of them time out.
    routes = (*_PRIVATE, *_HEALTH)
    answers = await asyncio.gather(*(_request(probe, route) for route in routes))
    exposed = [
        route for route, answer in zip(routes, answers, strict=True) if _is_servers_own(answer)
    ]
    if not exposed:
        return ok("health checks, metrics and routes with a key are closed")
    severity = warn if set(exposed) <= set(_HEALTH) else fail
    return severity(
        f"open to strangers: {', '.join(exposed)}",
        "include smartserve/private.conf; in the server block: deploy/nginx/private.conf",
    )


def _is_servers_own(answer: ProbeResponse | None) -> bool:
    """Return whether the server itself answered; a proxy refuses in its own format."""
    # The server's own 404 means that the settings disable the route.
    if answer is None or answer.status == HTTPStatus.NOT_FOUND:
        return False
    # problem+json, metrics, or the status of a health check come from the server only.
    ours = answer.media_type == _PROBLEM or b"smartserve_" in answer.body
    return ours or "status" in answer.json()


async def _request(probe: HttpProbe, route: str) -> ProbeResponse | None:
    """Return the response; None if the proxy closes the connection, which also denies access."""
    method, target = route.split()
    with suppress(NoAnswer):
        return await probe.request(target, method=method)
    return None


async def check_forwarded(probe: HttpProbe, vendor: str) -> Finding:
    """Report if clients' addresses are not used, by the 401 to an upload without a token."""
    if vendor == _NO_PROXY:
        return skip("there is no reverse proxy at this address")
    # Without a body nothing is uploaded.
    answer = await _request(probe, "PATCH /users/me")
    if answer is None or (answer.status, answer.media_type) != (HTTPStatus.UNAUTHORIZED, _PROBLEM):
        return skip("uploads are not passed on, and only their responses show it")
    match answer.json().get("forwarded"):
        case "used":
            return ok("the client's address is forwarded, and used")
        case "ignored":
            return fail(
                "the client's address is forwarded, but not used: all wrong keys count as those of"
                " the proxy",
                "add the proxy's address to server.trusted_proxies; server.forwarded_header must"
                " be the header that it sets",
            )
    return fail(
        "X-Forwarded-For is not set: wrong keys of strangers count as those of the proxy",
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; as in"
        " deploy/nginx/proxy.conf",
    )


async def check_sockets(probe: HttpProbe, settings: Settings) -> Finding:
    """Report a proxy that removes Upgrade, without which no WebSocket opens (RFC 6455, 4.1)."""
    if not settings.metadata.enabled:
        return skip("metadata.enabled is false: there are no WebSockets")
    try:
        status = await probe.handshake(_SOCKET)
    except NoAnswer as error:
        return skip(f"{_SOCKET}: {error.detail}")
    # Without a token the server refuses, but only after the handshake was read.
    if status in (HTTPStatus.SWITCHING_PROTOCOLS, HTTPStatus.UNAUTHORIZED):
        return ok(f"Upgrade is passed on: {_SOCKET} is answered with {status:d}")
    if status == HTTPStatus.UPGRADE_REQUIRED:
        return fail(
            f"Upgrade is not passed on: {_SOCKET} cannot be opened, and progress is polled",
            'proxy_set_header Upgrade $http_upgrade; and proxy_set_header Connection "Upgrade"; for'
            " these paths: deploy/nginx/private.conf",
        )
    return skip(f"{_SOCKET} is answered with {status:d}: it is not passed on")
