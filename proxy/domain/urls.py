"""Public addresses of this server: the only module that builds or parses them. Pure.

The base address of a function is a scheme, a host and an optional path prefix. A trailing slash is
ignored. An empty base gives an absolute path, which a browser resolves against the page's origin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from urllib.parse import quote, urlsplit

from proxy.domain.media import NO_CHOICES, MediaChoices, MediaFacts
from proxy.domain.request import DEFAULT_SIZE, DPRS, WIDTHS, width_box
from proxy.domain.signature import Scope, original_text, rendition_text
from proxy.domain.variant import plan_geometry

SERVE_ROUTE = "/serve/{name}"
API_IMAGES_ROUTE = "/api/images/{name}"
"""Route templates; ``name`` is a media id with an optional extension (``1.webp``)."""

COMPONENT_PATH = "/static/smart-image.js"
OEMBED_PATH = "/oembed"

Signer = Callable[[int, str], str]
"""Returns the parameters that sign an address, by media id and what the signature has to cover."""

_VERSION_DIGITS = 16
# Smaller widths are for icons; a page does not request them through ``srcset``.
_MIN_SRCSET_WIDTH = 64
_IMAGE_PATH = re.compile(
    r"(.*)/(?:serve|api/images|info)/(0|[1-9][0-9]{0,18})(?:\.[A-Za-z0-9]{1,8})?", re.ASCII
)
_SIGNABLE = re.compile(
    r"(?:https?://[^/?#]+)?(?:/[^?#]*)?/(?:"
    r"(?:serve|api/images)/(?P<image>0|[1-9][0-9]{0,18})(?:\.(?P<extension>[A-Za-z0-9]{1,8}))?"
    r"|api/media/(?P<original>0|[1-9][0-9]{0,18})/original)",
    re.ASCII,
)
_TEMPFILE_PATH = re.compile(r"(/[^/\\\x00-\x1f\x7f]+)+")
_MAX_TEMPFILE_PATH = 500

_PRINTABLE = re.compile(r"[!-~]+")
_UNSAFE = re.compile(r"[\"<>\\^`{|}]")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# The last label must not be a number: resolvers take 127.1 and 0x7f000001 for IPv4 addresses.
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\.?$|0[xX])({_LABEL})\.?", re.ASCII)
_MAX_HOST_NAME = 253


def local_base(host: str, port: int) -> str:
    """Return the address of the server for a client on the same machine."""
    # A wildcard address cannot be connected to on every system.
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared only
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def check_base_url(address: str) -> None:
    """Return if an address can be the base of other addresses.

    Raises:
        ValueError: with what it must be, to follow the name of its setting.
    """
    example = "for example https://img.example.org"
    if not _PRINTABLE.fullmatch(address) or _UNSAFE.search(address):
        raise ValueError(f"must be a URL of printable ASCII characters without spaces, {example}")
    scheme, separator, rest = address.partition("://")
    if scheme.lower() not in ("http", "https") or not separator:
        raise ValueError(f"must begin with http:// or https://, {example}")
    if "?" in rest or "#" in rest:
        raise ValueError("must not contain ? or #, because paths are appended to it")
    if "@" in rest.partition("/")[0]:
        raise ValueError("must not contain a user name or password")
    try:
        parts = urlsplit(address)
        valid = parts.port != 0 and _is_host(parts.hostname or "", bracketed=rest.startswith("["))
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"must have a valid host and port, {example}")
    # A browser resolves dot segments, so the path would not be the one that was appended to.
    if "//" in parts.path or {".", ".."} & set(parts.path.split("/")):
        raise ValueError("must not have empty or dot segments in its path")


def check_public_url(address: str) -> None:
    """Return if users on other machines may be able to reach a base address.

    Names are not resolved, except that ``localhost`` is this machine by definition (RFC 6761, 6.3).
    Raises as `check_base_url` does.
    """
    check_base_url(address)
    host = (urlsplit(address).hostname or "").rstrip(".")
    try:
        found = ip_address(host)
    except ValueError:
        local = host.rpartition(".")[2] in ("localhost", "localdomain")
        unreachable = local or host in ("ip6-localhost", "ip6-loopback")
    else:
        # Python 3.11: is_loopback is False for ::ffff:127.0.0.1.
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        unreachable = found.is_loopback or found.is_unspecified or found.is_multicast
        unreachable |= found.is_link_local
    if unreachable:
        raise ValueError("must be an address that users can reach, not one of this machine only")


def _is_host(host: str, *, bracketed: bool) -> bool:
    try:
        # IPv6 addresses need brackets, and no others may have them (RFC 3986, 3.2.2). A zone is of
        # one machine only.
        return bracketed == isinstance(ip_address(host), IPv6Address) and "%" not in host
    except ValueError:
        named = len(host) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(host)
        return bool(named) and not bracketed


def image_url(
    media_id: int,
    *,
    base: str = "",
    size: str | None = None,
    width: int | None = None,
    fmt: str | None = None,
    version: str | None = None,
    extra: Mapping[str, str] | None = None,
    signer: Signer | None = None,
) -> str:
    """Return the ``/serve`` address of an image; parameters that are None are left out.

    ``signer`` signs the address of a private image.
    """
    path = f"{base.rstrip('/')}/serve/{media_id}"
    query = {"size": size, "w": width, **(extra or {}), "format": fmt, "v": version}
    address = _with_query(path, query)
    if signer is None:
        return address
    return _and(address, signer(media_id, covered_text(size, width, fmt, extra or {})))


def covered_text(
    size: str | None, width: int | None, fmt: str | None, extra: Mapping[str, str]
) -> str:
    """Return what the signature of an image's address covers."""
    dpr = extra.get("dpr", "1")
    box = f"size={size or DEFAULT_SIZE}&dpr={dpr}"
    if width is not None:
        box = f"w={width_box(width * DPRS[dpr]).width}"
    return rendition_text(box=box, fmt=fmt, bg=extra.get("bg"))


def original_url(
    media_id: int, *, base: str = "", metadata: str | None = None, signer: Signer | None = None
) -> str:
    """Return the address of an original; ``metadata`` is ``kept``, the default, or ``stripped``."""
    path = f"{base.rstrip('/')}/api/media/{media_id}/original"
    address = _with_query(path, {"metadata": metadata})
    if signer is None:
        return address
    return _and(address, signer(media_id, original_text(metadata=metadata or "kept")))


def _and(address: str, parameters: str) -> str:
    # Without a key nothing is signed.
    if not parameters:
        return address
    return f"{address}{'&' if '?' in address else '?'}{parameters}"


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


def parse_signable(address: str) -> tuple[Scope, int, str | None] | None:
    """Return what an address without its query opens, its media id and its extension, or None."""
    match = _SIGNABLE.fullmatch(address)
    if match is None:
        return None
    scope = Scope.RENDITION if match["original"] is None else Scope.ORIGINAL
    return scope, int(match["image"] or match["original"]), match["extension"]


def parse_image_path(path: str) -> tuple[str, int] | None:
    """Split the path of an image address into its prefix and media id; None for any other path."""
    match = _IMAGE_PATH.fullmatch(path)
    return (match[1], int(match[2])) if match else None


def version_of(facts: MediaFacts, choices: MediaChoices = NO_CHOICES) -> str:
    """Return the ``v`` token, 16 digits: of the content hash of the source, faces and choices.

    Responses to addresses with it are immutable, so it changes with everything that moves a crop:
    what people choose, and faces that are found later.
    """
    shown = (choices.focus, choices.crops, choices.background, facts.faces)
    if not any(shown):
        return facts.content_hash[:_VERSION_DIGITS]
    text = f"{facts.content_hash} {shown}"
    return blake2b(text.encode(), digest_size=_VERSION_DIGITS // 2).hexdigest()


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


def srcset(
    media_id: int,
    facts: MediaFacts,
    version: str,
    fmt: str | None = None,
    *,
    signer: Signer | None = None,
) -> str:
    """Return a ``srcset``; without a format each browser receives the best one it accepts.

    ``version`` comes from `version_of`.
    """
    url = partial(image_url, media_id, fmt=fmt, version=version, signer=signer)
    return ", ".join(
        f"{url(width=parameter)} {width}w" for parameter, width in srcset_widths(facts)
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
