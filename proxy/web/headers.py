"""The response headers of a picture, and their bytes."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from pathlib import PureWindowsPath
from urllib.parse import quote

from proxy.domain.formats import TRAITS, Format
from proxy.domain.outcome import Origin
from proxy.domain.render_plan import RenderPlan
from proxy.domain.variant import Variant
from proxy.settings import LifetimeSettings
from proxy.web.cache_headers import ImageRoute, cache_control, cache_status, tags
from proxy.web.conditional import http_date

Header = tuple[str, str]

SERVER = "smartserve"
"""The product alone: versions are for ``/metrics``, not for strangers."""

PRIVATE: tuple[Header, ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'"),
)
"""On answers that are no pictures: pages of other origins cannot read them."""

SECURITY: tuple[Header, ...] = (
    *PRIVATE,
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Access-Control-Allow-Origin", "*"),
    ("Timing-Allow-Origin", "*"),
)
"""On every answer of a picture route: a picture may be shown anywhere, and does nothing else."""

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 80


def validators(
    plan: RenderPlan,
    variant: Variant,
    origin: Origin,
    *,
    route: ImageRoute,
    lifetimes: LifetimeSettings,
) -> list[Header]:
    """What a 304 carries, and every 200 with it (RFC 9110, 15.4.5).

    What stands in for the picture has no date: a client that knows only dates would be told for
    ever that it has the picture.
    """
    vary = [("Vary", "Accept")] if plan.request.negotiated else []
    dated = [("Last-Modified", http_date(plan.media.updated_at))]
    names = tags(plan)
    draft = variant == plan.draft
    stands_in = draft or plan.stand_in or origin is Origin.FALLBACK
    lifetime = cache_control(plan, origin, route=route, lifetimes=lifetimes, draft=draft)
    return [
        ("Cache-Control", lifetime),
        ("ETag", variant.etag),
        *([] if stands_in else dated),
        *vary,
        ("Cache-Status", cache_status(origin, draft=draft)),
        ("Cache-Tag", ",".join(names)),
        ("Surrogate-Key", " ".join(names)),
        *SECURITY,
    ]


def content_headers(plan: RenderPlan, fmt: Format) -> list[Header]:
    """What describes the picture itself, but for its length."""
    kept = [("Smartserve-Background", "original; reason=border-not-uniform")]
    return [
        ("Content-Type", TRAITS[fmt].media_type),
        ("Content-Disposition", content_disposition(plan, fmt)),
        ("Accept-Ranges", "bytes"),
        *(kept if plan.background_kept else []),
    ]


def content_disposition(plan: RenderPlan, fmt: Format) -> str:
    """Shown in the page, and saved under the name that the picture was uploaded with.

    The name is a stranger's text: plain ASCII stays, all else goes percent-encoded into
    ``filename*`` (RFC 6266).
    """
    # Its path takes slashes of both kinds for separators.
    stem = PureWindowsPath(plan.media.original_name or "").stem[:_MAX_NAME].strip(" .")
    suffix = f"-{plan.request.label}.{TRAITS[fmt].suffix}"
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    name = _UNREADABLE.sub("-", plain).strip("-.") or f"media-{plan.media.id}"
    if stem in ("", name):
        return f'inline; filename="{name}{suffix}"'
    encoded = quote(stem.encode("utf-8", "replace"), safe="")
    return f"inline; filename=\"{name}{suffix}\"; filename*=UTF-8''{encoded}{suffix}"


def server_timing(timings: Iterable[tuple[str, float]]) -> str:
    """Server-Timing from pairs of stage and seconds."""
    return ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in timings)


def to_head(status: int, headers: Iterable[Header]) -> bytes:
    """Status line and header lines, without the empty line that ends them."""
    status_line = f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}"
    lines = [status_line, f"Server: {SERVER}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


class DateLine:
    """The Date header's line, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def now(self) -> bytes:
        """``Date: ...`` with its line end."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line
