"""Addresses of clients: that of the peer, or the one that a trusted proxy reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import web
from multidict import MultiMapping

# An address with its port. Without one, the brackets of an IPv6 address are still optional.
_NODE = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+", re.ASCII)

_MAX_ADDRESSES = 4096
"""Addresses of which it is remembered whether they are trusted."""

CLIENT = web.RequestKey("client", str)
"""Of a request that a trusted proxy forwarded: the client's address, which replaces `remote`."""


class TrustedProxies:
    """The networks whose forwarding header is believed (``server.trusted_proxies``)."""

    def __init__(self, networks: Sequence[str], header: str) -> None:
        """``header`` is X-Forwarded-For or Forwarded. Proxies may pass the other on unchanged."""
        self._networks = [ip_network(network) for network in networks]
        self.header = header
        self.is_trusted: Callable[[str], bool] = lru_cache(_MAX_ADDRESSES)(self._is_listed)
        """Returns whether an address is in one of the networks: a CDN may have hundreds."""

    def _is_listed(self, peer: str) -> bool:
        address = parse_address(peer)
        return address is not None and any(address in network for network in self._networks)

    def find_client(self, headers: MultiMapping[str]) -> str | None:
        """Return the client's address by the header of a trusted peer; None if it names none.

        Each proxy appends the address that it was connected from. So the client is the rightmost
        address that is not a proxy's. What is left of it was sent by the client itself.
        """
        # aiohttp gives a request that it could not parse an empty dict, which has no `getall`.
        if self.header not in headers:
            return None
        found = None
        # Split at every comma, also in quotes: a quote that the client left open must not hide what
        # a proxy appended.
        for hop in reversed(",".join(headers.getall(self.header)).split(",")):
            address = parse_address(self._node(hop.strip()))
            # "unknown" or garbage: the proxy to the right is the last known hop.
            if address is None:
                break
            found = str(address)
            if not self.is_trusted(found):
                break
        return found

    def _node(self, hop: str) -> str:
        """Return the address of one hop, without quotes, brackets and port; empty if none."""
        if self.header == "Forwarded":
            # RFC 7239, 4: pairs in any order, with names in any case.
            pairs = (pair.strip().partition("=") for pair in hop.split(";"))
            named = (value for name, _, value in pairs if name.lower() == "for")
            hop = next(named, "").strip('"')
        match = _NODE.fullmatch(hop)
        return hop if match is None else match[1] or match[2] or ""


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address without its zone (``%eth0``), or None if the text is not one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket reports IPv4 clients as IPv6.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
