"""Settings of originals on other web servers."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, Field

from proxy.settings.sections import (
    MAX_BYTES,
    MIB,
    Network,
    PositiveSeconds,
    Seconds,
    Section,
)

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# The last label must not be a number: resolvers take 127.1 and 0x7f000001 for IPv4 addresses.
_NAME = rf"(?:{_LABEL}\.)*(?![0-9]+$|0x){_LABEL}"
_HOST = re.compile(_NAME, re.ASCII)
_WILDCARD = re.compile(rf"\*\.(?:{_LABEL}\.)+(?![0-9]+$|0x){_LABEL}", re.ASCII)
_MAX_HOST = 253


def _host_pattern(text: str) -> str:
    pattern = text.lower()
    if not pattern.isascii():
        raise ValueError("must be in Punycode, for example xn--bcher-kva.example")
    try:
        return str(ip_address(pattern.strip("[]")))
    except ValueError:
        named = _HOST.fullmatch(pattern) or _WILDCARD.fullmatch(pattern)
    if not named or len(pattern) > _MAX_HOST:
        raise ValueError(
            "must be a host such as img.example.org, an address, or *.example.org for all hosts"
            " below a domain; without scheme, port, path and final dot"
        )
    return pattern


HostPattern = Annotated[str, AfterValidator(_host_pattern)]
"""A host in lower case, an IP address, or ``*.`` and a domain of at least two labels."""


class HttpSettings(Section):
    """Originals on other web servers, and `smartserve import URL`.

    With `hosts`, the paths of rows may be addresses such as "https://img.example.org/1.jpg".
    """

    hosts: Annotated[tuple[HostPattern, ...], Field(max_length=1000)] = ()
    """Hosts from which originals may be fetched, for example ["img.example.org", "*.example.com"].
    A pattern with * does not include the domain itself. Redirects must lead to these hosts, too. If
    empty, nothing is fetched."""
    ports: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65535)], ...], Field(min_length=1, max_length=100)
    ] = (443,)
    """Ports of these hosts. Add 80 to allow addresses that begin with http://: their images are not
    encrypted, and anyone on the way can replace them."""
    max_bytes: int = Field(50 * MIB, ge=1024, le=MAX_BYTES)
    """Maximum size of an original that is fetched. storage.max_original_bytes applies as well."""
    timeout_s: PositiveSeconds = 10
    """Time limit for fetching an original, including redirects. Half of it limits the connection
    and each pause."""
    revalidate_s: Seconds = 3600
    """Interval at which originals of cached rows are checked for changes, by one conditional
    request for each. A changed original gets new renditions. 0: they are only checked when
    something is rendered from them."""
    allow_private: Annotated[tuple[Network, ...], Field(max_length=1000)] = ()
    """Private networks in which originals may be, for example ["10.1.2.0/24"]. Any row can then
    make the server send requests to the listed hosts there. By default only public addresses are
    connected to. Metadata services of clouds (169.254.169.254 and others) are always refused."""
