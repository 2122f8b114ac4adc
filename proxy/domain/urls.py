"""Public addresses of this server: the only module that builds or parses them. Pure.

The base address of a function is a scheme, a host and an optional path prefix. A trailing slash is
ignored. An empty base gives an absolute path, which a browser resolves against the page's origin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

from proxy.domain.media import MediaFacts
from proxy.domain.request import WIDTHS, width_box
from proxy.domain.variant import plan_geometry

SERVE_ROUTE = "/serve/{name}"
API_IMAGES_ROUTE = "/api/images/{name}"
"""Route templates; ``name`` is a media id with an optional extension (``1.webp``)."""

COMPONENT_PATH = "/static/smart-image.js"
OEMBED_PATH = "/oembed"

_VERSION_DIGITS = 16
# Smaller widths are for icons; a page does not request them through ``srcset``.
_MIN_SRCSET_WIDTH = 64
_IMAGE_PATH = re.compile(
    r"(.*)/(?:serve|api/images|info)/([0-9]{1,19})(?:\.[A-Za-z0-9]{1,8})?", re.ASCII
)
_TEMPFILE_PATH = re.compile(r"(/[^/\\\x00-\x1f\x7f]+)+")
_MAX_TEMPFILE_PATH = 500


def local_base(host: str, port: int) -> str:
    """Return the address of the server for a client on the same machine."""
    # A wildcard address cannot be connected to on every system.
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared only
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def image_url(
    media_id: int,
    *,
    base: str = "",
    size: str | None = None,
    width: int | None = None,
    fmt: str | None = None,
    version: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> str:
    """Return the ``/serve`` address of an image; parameters that are None are left out."""
    path = f"{base.rstrip('/')}/serve/{media_id}"
    query = {"size": size, "w": width, **(extra or {}), "format": fmt, "v": version}
    return _with_query(path, query)


def images_base(configured: str, base: str) -> str:
    """Return the base of `profile_image_url`: ``SMART_MEDIA_BASE_URL``, or ``/api/images`` here."""
    return (configured or f"{base.rstrip('/')}/api/images").rstrip("/")


def profile_image_url(images: str, media_id: int | str, *, size: str | None = None) -> str:
    """Return the address that a user profile stores; ``images`` comes from `images_base`."""
    return _with_query(f"{images}/{media_id}", {"size": size})


def info_url(media_id: int) -> str:
    """Return the address of an image's description."""
    return f"/info/{media_id}"


def tempfile_url(base: str, image_path: str) -> str | None:
    """Return the address of an upload's temporary file, or None if its path is unsafe."""
    # The path comes from another server. Empty or dot segments could lead out of the folder, and a
    # leading `//` would name another host.
    safe = (
        len(image_path) <= _MAX_TEMPFILE_PATH
        and _TEMPFILE_PATH.fullmatch(image_path)
        and not {".", ".."} & set(image_path.split("/"))
    )
    # `?` and `#` are quoted too, so that they stay part of the path.
    return f"{base.rstrip('/')}{quote(image_path, safe='/')}" if safe else None


def parse_image_path(path: str) -> tuple[str, int] | None:
    """Split the path of an image address into its prefix and media id; None for any other path."""
    match = _IMAGE_PATH.fullmatch(path)
    return (match[1], int(match[2])) if match else None


def version_of(facts: MediaFacts) -> str:
    """Return the ``v`` token: the first 16 digits of the content hash of the source."""
    return facts.content_hash[:_VERSION_DIGITS]


# A description needs the widths five times, for each format and for `sizes`.
@lru_cache(maxsize=256)
def srcset_widths(
    facts: MediaFacts, *, min_width: int = _MIN_SRCSET_WIDTH
) -> tuple[tuple[int, int], ...]:
    """Return pairs of ``w`` parameter and resulting pixel width, without duplicate results.

    Images are never enlarged, so from a certain parameter on every answer has the same width. If
    all widths are below ``min_width``, all are returned.
    """
    parameters: dict[int, int] = {}
    for parameter in WIDTHS:
        width = plan_geometry(width_box(parameter), facts).width
        # The smallest parameter of each width: a larger one gives the same image.
        parameters.setdefault(width, parameter)
    large = {width: parameter for width, parameter in parameters.items() if width >= min_width}
    return tuple((parameter, width) for width, parameter in (large or parameters).items())


def srcset(media_id: int, facts: MediaFacts, fmt: str | None = None) -> str:
    """Return a ``srcset``; without a format each browser receives the best one it accepts."""
    version = version_of(facts)
    return ", ".join(
        f"{image_url(media_id, width=parameter, fmt=fmt, version=version)} {width}w"
        for parameter, width in srcset_widths(facts)
    )


def _with_query(path: str, query: Mapping[str, str | int | None]) -> str:
    # A response to /info contains up to 6,000 addresses: quote() is called for text only, which
    # takes 3 us an address instead of 10 us with urlencode().
    pairs = [
        f"{name}={value if isinstance(value, int) else quote(value, safe='')}"
        for name, value in query.items()
        if value is not None
    ]
    return f"{path}?{'&'.join(pairs)}" if pairs else path
