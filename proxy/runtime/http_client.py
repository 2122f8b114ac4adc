"""Helpers for outgoing HTTP requests: sessions, public addresses, bounded bodies, Retry-After."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

_CHUNK_BYTES = 256 * 1024
_MAX_RETRY_AFTER_S = 86_400


_NAT64 = ip_network("64:ff9b::/96")
"""The last 32 bits of such an address are one of IPv4 (RFC 6052)."""
_GLOBAL_UNICAST = ip_network("2000::/3")


def open_session(
    headers: Mapping[str, str] | None = None, *, connector: aiohttp.TCPConnector | None = None
) -> aiohttp.ClientSession:
    """Return a session that keeps no cookies and ignores proxy variables. The caller closes it."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers=headers,
        connector=connector,
    )


class PrivateAddress(OSError):
    """A host has an address that is not public; the request is not sent."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address belongs to the public internet.

    Private, loopback, link-local, shared (CGNAT), unique local, multicast and reserved addresses
    are not public, nor are those of tunnels. If an IPv6 address contains an IPv4 address, that one
    decides.
    """
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST or address.sixtofour or address.teredo:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


async def public_connector(
    host: str, port: int, *, allowed: Callable[[IPv4Address | IPv6Address], bool] = is_public
) -> aiohttp.TCPConnector:
    """Resolve a host once; return a connector that uses only the resolved addresses.

    A second resolution could return an address that was not checked (DNS rebinding).

    Raises:
        PrivateAddress: one of its addresses is not public.
        OSError: the name cannot be resolved.
    """
    # Also a literal, which aiohttp would not pass to a resolver, and numbers such as 0x7f.1.
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    results = []
    for family, _, protocol, _, (address, *_rest) in found:
        text = str(address)
        if not allowed(ip_address(text)):
            raise PrivateAddress(f"{host} has the address {text}, which is not public")
        results.append(
            ResolveResult(
                hostname=host,
                host=text,
                port=port,
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
        )
    return aiohttp.TCPConnector(resolver=_Resolved(results), force_close=True)


class _Resolved(AbstractResolver):
    """Returns what was resolved before."""

    def __init__(self, results: Sequence[ResolveResult]) -> None:
        self._results = results

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del host, port, family
        return [*self._results]

    async def close(self) -> None:
        """Do nothing."""


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
