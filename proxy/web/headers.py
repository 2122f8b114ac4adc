"""The response headers of an image: lifetimes, validators, tags, content; and their encoding."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import PureWindowsPath
from urllib.parse import quote

from proxy.domain.formats import TRAITS, Format
from proxy.domain.media import Media
from proxy.domain.render_plan import RenderPlan
from proxy.domain.request import Origin, VariantRequest, ignored_parameters
from proxy.domain.urls import API_IMAGES_ROUTE, SERVE_ROUTE
from proxy.domain.variant import Variant
from proxy.settings import LifetimeSettings

Header = tuple[str, str]

SERVER = "smartserve"
"""The product without its version, which ``/metrics`` has."""

NO_STORE = "no-store"

CLIENT_HINTS = "Save-Data, ECT"
"""Request headers that decide whether an image is lean, if client hints are enabled."""

PRIVATE: tuple[Header, ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'"),
)
"""For responses other than images: pages of other origins cannot read them."""

SECURITY: tuple[Header, ...] = (
    *PRIVATE,
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Access-Control-Allow-Origin", "*"),
    ("Timing-Allow-Origin", "*"),
)
"""For every response of an image route: any page may show the image, and it can run nothing."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 80
# A name that is sent as it is, without its extension.
_SIMPLE_NAME = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9_-]{0,78}[A-Za-z0-9])?)\.[A-Za-z0-9]+", re.ASCII
)


class ImageRoute(StrEnum):
    """The routes that serve images; they differ in lifetimes only."""

    SERVE = "serve"
    API_IMAGES = "api_images"

    @property
    def path(self) -> str:
        """The template of its addresses."""
        return _PATHS[self]


_PATHS = {ImageRoute.SERVE: SERVE_ROUTE, ImageRoute.API_IMAGES: API_IMAGES_ROUTE}

_CACHE_STATUS = {
    Origin.MEMORY: "hit; detail=memory",
    Origin.DISK: "hit; detail=disk",
    Origin.RENDER: "fwd=uri-miss; stored; detail=render",
    Origin.COALESCED: "fwd=uri-miss; collapsed; detail=coalesced",
    Origin.FALLBACK: "hit; detail=fallback",
    Origin.NOT_MODIFIED: "hit; detail=not-modified",
    Origin.NONE: "fwd=uri-miss; detail=not-rendered",
}


def cache_status(origin: Origin, *, draft: bool = False) -> str:
    """Return Cache-Status (RFC 9211): hit or miss, with the tier, or ``draft`` in its place."""
    status = _CACHE_STATUS[origin]
    if draft:
        status = f"{status.partition('; detail=')[0]}; detail=draft"
    return f"smartserve; {status}"


def cache_control(
    plan: RenderPlan,
    origin: Origin,
    *,
    route: ImageRoute,
    lifetimes: LifetimeSettings,
    draft: bool = False,
    sent_until: float | None = None,
) -> str:
    """Return Cache-Control. Only the final of a completed media row has the long lifetime.

    No cache may keep the response to a signed URL beyond its expiry. ``sent_until`` is the last
    time, in seconds since 1970, at which this response may be sent; None: it is sent now.
    """
    seconds, more = _lifetime(plan, origin, route=route, lifetimes=lifetimes, draft=draft)
    signature = plan.request.signature
    if signature is None:
        return f"public, max-age={seconds}{more}"
    sent = time.time() if sent_until is None else sent_until
    seconds = max(0, min(seconds, int(signature.expires - sent)))
    # must-revalidate also forbids to serve it while this server fails (RFC 5861, 4).
    if lifetimes.signed_shared:
        return f"public, max-age={seconds}, s-maxage={seconds}, must-revalidate"
    return f"private, max-age={seconds}, must-revalidate"


def _lifetime(
    plan: RenderPlan,
    origin: Origin,
    *,
    route: ImageRoute,
    lifetimes: LifetimeSettings,
    draft: bool,
) -> tuple[int, str]:
    """Return max-age and what follows it in the Cache-Control of a public image."""
    if origin is Origin.FALLBACK or plan.is_fallback or plan.background_kept or plan.provisional:
        return lifetimes.fallback_s, ""
    if not plan.media.completed:
        return lifetimes.processing_s, ""
    if draft:
        return lifetimes.draft_s, f", stale-while-revalidate={lifetimes.draft_stale_s}"
    if route is ImageRoute.API_IMAGES:
        return lifetimes.api_s, f", stale-while-revalidate={lifetimes.api_stale_s}"
    return lifetimes.serve_s, ", immutable" if plan.request.version is not None else ""


def last_modified(plan: RenderPlan, variant: Variant, origin: Origin) -> datetime | None:
    """Return the date by which a client may confirm a response; None for a draft or substitute.

    All renditions of an image share this date, so it can confirm only the one that stays.
    """
    substitute = origin is Origin.FALLBACK or plan.is_fallback or plan.background_kept
    if substitute or plan.provisional or variant is plan.draft or not plan.media.completed:
        return None
    # An editor may set two crops within a second, which the date cannot tell apart. The ETag can.
    return None if plan.media.choices.changed_at else plan.media.updated_at


def sent_date(plan: RenderPlan, variant: Variant, origin: Origin) -> datetime | None:
    """Return the date that a response has as Last-Modified, or None.

    A draft or fallback has none. The final has the same, so a client that compares dates only would
    be sent 304 for ever and never get the final.
    """
    draft = variant is plan.draft
    if draft or plan.is_fallback or plan.provisional or origin is Origin.FALLBACK:
        return None
    return plan.media.changed_at


def media_tag(media_id: int) -> str:
    """Return the tag by which a CDN purges all responses about a medium."""
    return f"m-{media_id}"


def tag_headers(names: Sequence[str]) -> list[Header]:
    """Return the headers that name tags: of Cloudflare and Bunny, of Fastly and others."""
    return [("Cache-Tag", ",".join(names)), ("Surrogate-Key", " ".join(names))]


def tags(plan: RenderPlan) -> tuple[str, ...]:
    """Return the tags by which a CDN purges: media, user, size."""
    return (
        media_tag(plan.media.id),
        f"u-{plan.media.user_id}",
        f"s-{plan.request.box.name}",
    )


@lru_cache(maxsize=4096)
def http_date(moment: datetime) -> str:
    """Format an aware datetime as an HTTP date (RFC 9110, 5.6.7).

    Cached: many images of a library were imported in the same second.
    """
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def validators(
    plan: RenderPlan,
    variant: Variant,
    origin: Origin,
    *,
    route: ImageRoute,
    lifetimes: LifetimeSettings,
    sent_until: float | None = None,
) -> list[Header]:
    """Return the headers that 200 and 304 share (RFC 9110, 15.4.5), without Cache-Status.

    ``sent_until`` is that of `cache_control`.
    """
    draft = variant is plan.draft
    control = cache_control(
        plan, origin, route=route, lifetimes=lifetimes, draft=draft, sent_until=sent_until
    )
    headers = [
        ("Cache-Control", control),
        ("ETag", variant.etag),
        *tag_headers(tags(plan)),
        *SECURITY,
    ]
    if date := sent_date(plan, variant, origin):
        headers.append(("Last-Modified", http_date(date)))
    if vary := varies_by(plan.request):
        headers.append(("Vary", vary))
    return headers


def varies_by(request: VariantRequest) -> str:
    """Return Vary of the responses to a request; empty if they are the same for all clients."""
    accept = "Accept" if request.format is None else ""
    if request.lean is None:
        return accept
    # Also of the usual quality: a cache must not send it to clients with hints, and vice versa.
    return f"{accept}, {CLIENT_HINTS}" if accept else CLIENT_HINTS


def ignored_header(raw_query: str) -> list[Header]:
    """Return Smartserve-Ignored if a query has parameters of other servers, which do nothing here.

    It contains only names of `FOREIGN_PARAMETERS`, no text of the client.
    """
    names = ignored_parameters(raw_query)
    return [("Smartserve-Ignored", names)] if names else []


def content_headers(plan: RenderPlan, fmt: Format) -> list[Header]:
    """Return the headers that describe the image itself, except its length."""
    headers = [
        ("Content-Type", TRAITS[fmt].media_type),
        ("Content-Disposition", content_disposition(plan, fmt)),
        ("Accept-Ranges", "bytes"),
    ]
    if plan.background_kept:
        headers.append(("Smartserve-Background", "original; reason=border-not-uniform"))
    return headers


def image_headers(
    plan: RenderPlan,
    variant: Variant,
    fmt: Format,
    origin: Origin,
    *,
    route: ImageRoute,
    lifetimes: LifetimeSettings,
    timings: Iterable[tuple[str, float]],
) -> list[Header]:
    """Return all headers of a 200 except its length."""
    return [
        *content_headers(plan, fmt),
        *validators(plan, variant, origin, route=route, lifetimes=lifetimes),
        ("Cache-Status", cache_status(origin, draft=variant is plan.draft)),
        ("Server-Timing", server_timing(timings, draft=variant is plan.draft)),
    ]


def content_disposition(plan: RenderPlan, fmt: Format) -> str:
    """Return Content-Disposition: inline, with the name under which the image was uploaded."""
    suffix = f"-{plan.request.box.name}.{TRAITS[fmt].suffix}"
    simple = _SIMPLE_NAME.fullmatch(plan.media.original_name or "")
    if simple is not None:
        # The usual case, in a tenth of the time.
        return f'inline; filename="{simple[1]}{suffix}"'
    return disposition("inline", plan.media, suffix)


def disposition(kind: str, media: Media, suffix: str) -> str:
    """Return Content-Disposition with the name under which an image was uploaded.

    The name is untrusted text. Plain ASCII is kept; all else is percent-encoded into
    ``filename*`` (RFC 6266, RFC 8187). ``suffix`` replaces its extension.
    """
    # PureWindowsPath treats both / and \ as separators.
    stem = PureWindowsPath(media.original_name or "").stem[:_MAX_NAME].strip(" .")
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    name = _UNSAFE.sub("-", plain).strip("-.") or f"media-{media.id}"
    if stem in ("", name):
        return f'{kind}; filename="{name}{suffix}"'
    encoded = quote(stem.encode("utf-8", "replace"), safe="")
    return f"{kind}; filename=\"{name}{suffix}\"; filename*=UTF-8''{encoded}{suffix}"


def server_timing(timings: Iterable[tuple[str, float | None]], *, draft: bool = False) -> str:
    """Return Server-Timing for pairs of stage and seconds; None: the time is not known.

    A draft is named first: of an image's headers this is the only one that a page may read, without
    another request.
    """
    stages = [
        stage if seconds is None else f"{stage};dur={seconds * 1000:.1f}"
        for stage, seconds in timings
    ]
    return ", ".join(["draft", *stages] if draft else stages)
