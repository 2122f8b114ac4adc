"""Recipes: who stands in front, and which line of which file in deploy/ mends what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from proxy.doctor.http_client import ProbeResponse


class ReverseProxy(StrEnum):
    """Who answers in front."""

    NGINX = "nginx"
    CLOUDFLARE = "Cloudflare"
    CLOUDFRONT = "CloudFront"
    FASTLY = "Fastly"
    BUNNY = "Bunny"
    NOBODY = "nobody"
    OTHER = "another"


_FILES: Mapping[ReverseProxy, str] = MappingProxyType(
    {
        ReverseProxy.CLOUDFLARE: "deploy/cdn/cloudflare/worker.js",
        ReverseProxy.CLOUDFRONT: "deploy/cdn/cloudfront/function.js and cache-policy.json",
        ReverseProxy.FASTLY: "deploy/cdn/fastly/smartserve.vcl",
        ReverseProxy.BUNNY: "deploy/cdn/bunny/script.js",
    }
)


def front_of(answer: ProbeResponse) -> ReverseProxy:
    """Who gave an answer, by the headers that each adds; the outermost where there are several."""
    server = answer.told("Server").lower()
    via = answer.told("Via").lower()
    if "cloudflare" in server or answer.told("CF-Ray"):
        return ReverseProxy.CLOUDFLARE
    if answer.told("X-Amz-Cf-Id") or "cloudfront" in via:
        return ReverseProxy.CLOUDFRONT
    if answer.told("X-Served-By").lower().startswith("cache-") or "fastly" in via:
        return ReverseProxy.FASTLY
    if "bunny" in server or answer.told("CDN-PullZone"):
        return ReverseProxy.BUNNY
    if "nginx" in server or "nginx" in answer.told("Cache-Status"):
        return ReverseProxy.NGINX
    return ReverseProxy.NOBODY if server == "smartserve" and not via else ReverseProxy.OTHER


@dataclass(frozen=True, slots=True)
class ReverseProxyFix:
    """What mends a fault of one who stands in front."""

    nginx: str
    """The line, and the file below deploy/ that has it right."""
    cdn: str = ""
    """What to set there, beside the file that stands in `_FILES`; empty: that file alone."""

    def advice(self, front: ReverseProxy) -> str:
        """For who is in front; nginx may stand behind a CDN, and be the cause."""
        nginx = f"nginx: {self.nginx}"
        if front not in _FILES:
            return nginx
        more = f" ({self.cdn})" if self.cdn else ""
        return f"{front}: {_FILES[front]}{more}, see deploy/cdn/README.md; behind it {nginx}"


FORMATS = ReverseProxyFix(
    'proxy_cache_key "$smartserve_class $request_uri"; with proxy_set_header Accept'
    " $smartserve_accept; as in deploy/nginx/cache.conf, proxy.conf and formats.conf; then empty"
    " the cache",
    "one copy for each class of Accept headers; then purge all",
)
QUERY = ReverseProxyFix(
    "$request_uri, with its query, belongs into proxy_cache_key: deploy/nginx/cache.conf",
    "the query string belongs into the cache key",
)
VARY = ReverseProxyFix(
    "take out proxy_hide_header Vary; proxy_ignore_headers Vary is enough, as in"
    " deploy/nginx/cache.conf",
    "pass Vary on to clients",
)
ETAG = ReverseProxyFix(
    "take image/* out of gzip_types (and brotli_types), and gzip off; for pictures: no file of"
    " deploy/nginx packs them; what rewrites ETag (etag, add_header, proxy_hide_header ETag)"
    " goes too",
    "no packing and no rewriting of pictures; respect strong ETags",
)
LIFETIME = ReverseProxyFix(
    "take out expires, proxy_hide_header Cache-Control, proxy_ignore_headers Cache-Control and"
    " add_header Cache-Control where pictures are passed on: deploy/nginx/cache.conf has none",
    "browser TTL: respect the origin's headers; no minimum TTL",
)
RANGE = ReverseProxyFix(
    "take out max_ranges 0, proxy_set_header Range and proxy_hide_header Accept-Ranges:"
    " deploy/nginx/cache.conf has none",
    "pass Range on, or serve parts from the cache",
)
HEAD = ReverseProxyFix(
    "pass HEAD on as GET is: limit_except GET HEAD; proxy_cache_convert_head stays on, as in"
    " deploy/nginx/cache.conf; gzip off; for pictures",
    "HEAD among the methods that are passed on and cached",
)
BODY = ReverseProxyFix(
    "take out gzip_types image/*, sub_filter and image_filter where pictures are passed on:"
    " deploy/nginx/cache.conf has none",
    "switch off what optimises pictures (Polish, Image Optimizer): they are optimal already",
)
CLOSED = ReverseProxyFix(
    "include smartserve/private.conf; in the server block: deploy/nginx/private.conf",
    "pass on nothing but GET and HEAD of /serve/ and /api/images/, and PATCH /users/me",
)
FORWARDED = ReverseProxyFix(
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; as in deploy/nginx/proxy.conf",
)
UPLOADS = ReverseProxyFix(
    "client_max_body_size 52m; in location = /users/me, as in deploy/nginx/private.conf: ten"
    " files of main.max_file_bytes, and what forms have besides",
    "its limit of request bodies; or let uploads past it",
)
REACH = ReverseProxyFix(
    "the address in upstream smartserve, deploy/nginx/upstream.conf, and nginx's error.log",
    "the origin that it asks",
)
