"""Reverse proxies: which one answered, and the directives that correct its faults.

Each text names the file below deploy/ that has the directives.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from proxy.doctor.http_client import ProbeResponse


class ReverseProxy(StrEnum):
    """The outermost proxy that handled a response; the value is shown to the operator."""

    NGINX = "through nginx"
    CLOUDFLARE = "through Cloudflare"
    CLOUDFRONT = "through CloudFront"
    FASTLY = "through Fastly"
    BUNNY = "through Bunny"
    NOBODY = "without a proxy"
    OTHER = "through an unknown proxy"


_CDN_FILES: Mapping[ReverseProxy, str] = {
    ReverseProxy.CLOUDFLARE: "Cloudflare: deploy/cdn/cloudflare/worker.js",
    ReverseProxy.CLOUDFRONT: "CloudFront: deploy/cdn/cloudfront/function.js and cache-policy.json",
    ReverseProxy.FASTLY: "Fastly: deploy/cdn/fastly/smartserve.vcl",
    ReverseProxy.BUNNY: "Bunny: deploy/cdn/bunny/script.js",
}


def detect(answer: ProbeResponse) -> ReverseProxy:
    """Return the outermost proxy by the headers that each one adds."""
    server = answer.header("Server").lower()
    via = answer.header("Via").lower()
    # A CDN in front of nginx comes first: its cache answers the client.
    marks = {
        ReverseProxy.CLOUDFLARE: "cloudflare" in server or answer.header("CF-Ray"),
        ReverseProxy.CLOUDFRONT: "cloudfront" in via or answer.header("X-Amz-Cf-Id"),
        ReverseProxy.FASTLY: "fastly" in via
        or answer.header("X-Served-By").lower().startswith("cache-"),
        ReverseProxy.BUNNY: "bunny" in server or answer.header("CDN-PullZone"),
        ReverseProxy.NGINX: "nginx" in server or "nginx" in answer.header("Cache-Status"),
        ReverseProxy.NOBODY: server == "smartserve" and not via,
    }
    return next((vendor for vendor, mark in marks.items() if mark), ReverseProxy.OTHER)


def advice(vendor: ReverseProxy, nginx: str) -> str:
    """Return what to set for a vendor; an nginx behind a CDN may also be the cause."""
    if vendor not in _CDN_FILES:
        return f"nginx: {nginx}"
    return f"{_CDN_FILES[vendor]}, see deploy/cdn/README.md; behind it nginx: {nginx}"


FORMATS = (
    'proxy_cache_key "$smartserve_class $request_uri"; with proxy_set_header Accept'
    " $smartserve_accept; as in deploy/nginx/cache.conf, proxy.conf and formats.conf; then empty"
    " the cache"
)
VARY = (
    "remove proxy_hide_header Vary; proxy_ignore_headers Vary is enough, as in"
    " deploy/nginx/cache.conf"
)
ETAG = (
    "remove image/* from gzip_types (and brotli_types) and set gzip off; for images, and remove"
    " what rewrites ETag (etag, add_header, proxy_hide_header ETag): deploy/nginx/cache.conf"
)
LIFETIME = (
    "remove expires, proxy_hide_header Cache-Control, proxy_ignore_headers Cache-Control and"
    " add_header Cache-Control for images: deploy/nginx/cache.conf has none"
)
RANGE = (
    "remove max_ranges 0, proxy_set_header Range and proxy_hide_header Accept-Ranges:"
    " deploy/nginx/cache.conf has none"
)
CLOSED = "include smartserve/private.conf; in the server block: deploy/nginx/private.conf"
FORWARDED = (
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; as in deploy/nginx/proxy.conf"
)
REACH = (
    "check the address in upstream smartserve, deploy/nginx/upstream.conf, and nginx's error.log"
)
