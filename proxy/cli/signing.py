"""``smartserve sign``: sign addresses of private images."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

import typer

from proxy.cli.base import JsonOption, command, is_unicode
from proxy.domain.errors import BadParameter, ConfigurationError
from proxy.domain.media import MAX_MEDIA_ID
from proxy.domain.request import last_values, parse_request
from proxy.domain.signature import PARAMETERS, Scope, original_text
from proxy.domain.urls import image_url, original_url, parse_signable
from proxy.settings import Settings, url_keys
from proxy.settings.secrets import MAKE_KEY

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd]?)", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_ID = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_OLD = re.compile(rf"(?:^|&)(?:{'|'.join(PARAMETERS)})=[^&]*", re.IGNORECASE)


@command()
def sign(  # noqa: PLR0913, PLR0917 - the parameters of an address
    settings: Settings,
    target: Annotated[str, typer.Argument(metavar="URL|ID", help="Address or id of an image.")],
    size: Annotated[str | None, typer.Option(help="Named size.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width in pixels.")] = None,
    dpr: Annotated[str | None, typer.Option(help="Device pixels per CSS pixel.")] = None,
    fmt: Annotated[
        str | None, typer.Option("--format", show_default="by the Accept header", help="Format.")
    ] = None,
    bg: Annotated[str | None, typer.Option(help="original or removed.")] = None,
    expires: Annotated[
        str | None,
        typer.Option(show_default="access.ttl_s", help="Validity, in s, m, h or d, such as 12h."),
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Sign the download of the original of an id.")
    ] = False,
    metadata: Annotated[str | None, typer.Option(help="Of the original: kept or stripped.")] = None,
    base_url: Annotated[
        str | None, typer.Option(show_default="server.public_url", help="Base of an id's address.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the signed address of an image, and when it expires.

    Whoever has the address may see the image in this size, format and background, and no other.
    Options replace parameters of an address. Signs with access.signing_key; the database is not
    read.
    """
    keys = url_keys(settings.access)
    if not keys.can_sign:
        raise ConfigurationError(
            [f"no key is set: set SMARTSERVE_ACCESS__KEYS or access.key_files; {MAKE_KEY}"]
        )
    options = {"size": size, "w": width, "dpr": dpr, "format": fmt, "bg": bg, "metadata": metadata}
    given = {name: value for name, value in options.items() if value is not None}
    if not all(is_unicode(str(one)) for one in (target, base_url, *given.values())):
        raise typer.BadParameter("the address and its parameters must be UTF-8")
    ttl_s = _ttl(expires, settings)
    if _ID.fullmatch(target):
        base = settings.base_url() if base_url is None else base_url
        number = int(target)
        target = original_url(number, base=base) if original else image_url(number, base=base)
    path, _, query = target.partition("#")[0].partition("?")
    found = parse_signable(path)
    if found is None:
        raise typer.BadParameter(
            "must be an id, or the address of an image or of an original",
            param_hint="URL|ID",
        )
    parts = (_OLD.sub("", query).lstrip("&"), urlencode(given))
    query = "&".join(part for part in parts if part)
    scope, media_id, extension = found
    if media_id > MAX_MEDIA_ID:
        raise typer.BadParameter("no image has such a large id", param_hint="URL|ID")
    try:
        covers = _covered(settings, scope, query, extension, given)
    except BadParameter as error:
        hint = {"w": "--width"}.get(error.parameter, f"--{error.parameter}")
        raise typer.BadParameter(f"must be {error.allowed}", param_hint=hint) from None
    expiry = int(time.time()) + ttl_s
    signed = keys.parameters(scope, media_id, covers, expires=expiry)
    url = f"{path}?{query}{'&' if query else ''}{signed}"
    until = datetime.fromtimestamp(expiry, UTC).isoformat().replace("+00:00", "Z")
    if as_json:
        print(json.dumps({"url": url, "expires": expiry, "expires_in": ttl_s}))
        return
    print(url)
    # Standard output has only the address.
    print(f"valid for {_spoken(ttl_s)}, until {until}", file=sys.stderr)


def _covered(
    settings: Settings, scope: Scope, query: str, extension: str | None, given: Mapping[str, object]
) -> str:
    """Return what the signature covers.

    Raises:
        BadParameter: a parameter is not one of this address, or its value is not allowed.
    """
    if scope is Scope.ORIGINAL:
        if others := sorted(given.keys() - {"metadata"}):
            raise BadParameter(others[0], "left out: an original has no sizes and formats")
        metadata = (last_values(query).get("metadata") or "kept").lower()
        if metadata not in ("kept", "stripped"):
            raise BadParameter("metadata", "kept or stripped")
        return original_text(metadata=metadata)
    if "metadata" in given:
        raise BadParameter("metadata", "left out, unless the original is signed (--original)")
    # A parameter `sig` makes the parser return what a signature has to cover.
    request = parse_request(f"{query}&sig=0", sizes=settings.size_specs(), extension=extension)
    if request.signature is None:
        raise AssertionError
    return request.signature.covers


def _ttl(expires: str | None, settings: Settings) -> int:
    if expires is None:
        return settings.access.ttl_s
    match = _DURATION.fullmatch(expires)
    if match is None:
        raise typer.BadParameter(
            "must be a number followed by s, m, h or d, such as 12h", param_hint="--expires"
        )
    ttl_s = int(match[1]) * _SECONDS[match[2]]
    if ttl_s > settings.access.max_ttl_s:
        raise typer.BadParameter(
            f"must be at most {_spoken(settings.access.max_ttl_s)} (access.max_ttl_s): the server"
            " refuses addresses that are valid for longer",
            param_hint="--expires",
        )
    return ttl_s


def _spoken(seconds: int) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit and seconds % unit == 0:
            return f"{seconds // unit} {name}"
    return f"{seconds} seconds"
