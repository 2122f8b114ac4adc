"""Outgoing HTTP requests: sessions, allowed addresses, bounded bodies, Retry-After.

All of them connect through `guarded_connector`, which checks each address.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import aiohttp
from aiohttp import web

_CHUNK_BYTES = 256 * 1024
_MAX_RETRY_AFTER_S = 86_400
_TOTAL_S, _CONNECT_S = 300.0, 30.0
"""Time limits of requests without their own; those of aiohttp."""


_NAT64 = ip_network("64:ff9b::/96")
"""The last 32 bits of such an address are one of IPv4 (RFC 6052)."""
_GLOBAL_UNICAST = ip_network("2000::/3")
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            # Of the IETF, with a few anycast services; cloud metadata at Oracle.
            "192.0.0.0/24",
            # Relays of 6to4, which must not be used any more (RFC 7526).
            "192.88.99.0/24",
            # Documentation (RFC 9637), which `ipaddress` does not know in Python 3.11.
            "3fff::/20",
        ),
    )
)
_METADATA = tuple(
    map(
        ip_network,
        (
            # Link-local: AWS, Google, Azure, DigitalOcean, OpenStack, and ECS tasks.
            *("169.254.0.0/16", "fe80::/10"),
            # Azure's host agent, which has a public address; Alibaba; Oracle.
            *("168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
            # AWS and Google over IPv6.
            *("fd00:ec2::/64", "fd20:ce::254/128"),
        ),
    )
)
"""Where clouds have their metadata services, with the credentials of the machine."""

IPAddress = IPv4Address | IPv6Address


def open_session(
    headers: Mapping[str, str] | None = None,
    *,
    connector: aiohttp.TCPConnector | None = None,
    timeout: aiohttp.ClientTimeout | None = None,
    decompress: bool = True,
) -> aiohttp.ClientSession:
    """Return a session that keeps no cookies and ignores proxy variables. The caller closes it.

    By default it connects to every address but `is_forbidden` ones: for hosts that the operator
    chose.
    """
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers=headers,
        connector=connector or guarded_connector(lambda address: not is_forbidden(address)),
        timeout=timeout or aiohttp.ClientTimeout(total=_TOTAL_S, sock_connect=_CONNECT_S),
        auto_decompress=decompress,
    )


class PrivateAddress(PermissionError):
    """No connection is opened to this address."""

    def __init__(self, address: IPAddress) -> None:
        # With one number for all addresses of a host, aiohttp raises a PermissionError for all.
        super().__init__(errno.EACCES, f"the address {address} is not allowed")


def is_public(address: IPAddress) -> bool:
    """Return whether an address belongs to the public internet.

    Private, loopback, link-local, shared (CGNAT), unique local, multicast and reserved addresses
    are not public, nor are those of tunnels and of clouds' metadata services. If an IPv6 address
    contains an IPv4 address, that one decides.
    """
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST or address.sixtofour or address.teredo:
            return False
    if is_forbidden(address) or any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_reserved


def is_forbidden(address: IPAddress) -> bool:
    """Return whether no request may be sent to an address, whatever the settings allow.

    Multicast, and the metadata services of clouds. If an IPv6 address contains an IPv4 address,
    that one decides.
    """
    inner = _inner(address) if isinstance(address, IPv6Address) else None
    if inner is not None:
        return is_forbidden(inner)
    return address.is_multicast or any(address in network for network in _METADATA)


def public_or_in(networks: Collection[str]) -> Callable[[IPAddress], bool]:
    """Return a function that is true for public addresses, and for those in private networks."""
    parsed = tuple(map(ip_network, networks))

    def allowed(address: IPAddress) -> bool:
        if is_public(address):
            return True
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        plain = inner or address
        return any(plain in network for network in parsed) and not is_forbidden(plain)

    return allowed


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which packets for an IPv6 address go, or None."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def guarded_connector(
    allowed: Callable[[IPAddress], bool] = is_public,
    *,
    limit: int = 100,
    limit_per_host: int = 0,
) -> aiohttp.TCPConnector:
    """Return a connector that opens connections to allowed addresses only.

    The address is checked at the moment of the connection. So neither a name that is resolved to
    another address the second time (DNS rebinding), nor a literal address, which aiohttp does not
    pass to a resolver, nor a redirect evades the check. If a host has several addresses, the
    allowed ones are used.

    Requests raise `aiohttp.ClientConnectorError`, whose ``os_error`` is a PermissionError.
    """

    def checked_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, (host, *_rest) = info
        address = ip_address(host)
        if not allowed(address):
            raise PrivateAddress(address)
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        socket_factory=checked_socket, limit=limit, limit_per_host=limit_per_host
    )


async def read_bounded(
    message: aiohttp.ClientResponse | web.BaseRequest, max_bytes: int
) -> bytes | None:
    """Return the whole body, or None as soon as it exceeds ``max_bytes``."""
    # Content-Length may be absent, so the bytes are counted as they arrive.
    body = bytearray()
    async for chunk in message.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            return None
    return bytes(body)


def retry_after_s(headers: Mapping[str, str]) -> int | None:
    """Return the seconds of Retry-After (RFC 9110, 10.2.3), at most one day, or None.

    ``headers`` must be case-insensitive.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        # Nine digits are enough for a day, and int() of a megabyte of digits is slow.
        return min(int(value[:9]), _MAX_RETRY_AFTER_S)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # HTTP dates are in GMT (RFC 9110, 5.6.7).
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return min(max(0, round((aware - datetime.now(UTC)).total_seconds())), _MAX_RETRY_AFTER_S)
