"""Clients' addresses: which header lines of trusted proxies are believed, and which address."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from proxy.settings import ServerSettings
from proxy.web.server.client_address import TrustedProxies

NETWORKS = ("127.0.0.0/8", "::1/128", "10.42.0.0/16", "2001:db8:1::/48", "203.0.113.7")


def found(*lines: str, header: str = "X-Forwarded-For") -> str | None:
    headers = CIMultiDict((header, line) for line in lines)
    return TrustedProxies(NETWORKS, header).find_client(headers)


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.42.255.1", True),
        ("::ffff:10.42.0.1", True),
        ("203.0.113.7", True),
        ("203.0.113.8", False),
        ("10.43.0.1", False),
        ("2001:db8:1:5::9", True),
        ("2001:db8:2::9", False),
        ("", False),
        (None, False),
        ("/run/smartserve.sock", False),
    ],
)
def test_a_peer_is_trusted_if_one_of_the_networks_has_it(
    peer: str | None, *, trusted: bool
) -> None:
    assert TrustedProxies(NETWORKS, "X-Forwarded-For").is_trusted(peer or "") is trusted


def test_only_loopback_is_trusted_by_default() -> None:
    proxies = TrustedProxies(ServerSettings().trusted_proxies, "X-Forwarded-For")
    trusted = ["127.0.0.1", "127.9.9.9", "::1"]
    strange = ["10.0.0.1", "172.17.0.1", "192.168.1.1", "fd00::1", "169.254.1.1", "0.0.0.0", "::"]
    assert [one for one in [*trusted, *strange] if proxies.is_trusted(one)] == trusted


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["198.51.100.9"], "198.51.100.9"),
        # What is left of the first address that is not a proxy's, the client wrote itself.
        (["192.0.2.1, 198.51.100.9"], "198.51.100.9"),
        (["10.42.0.1, 198.51.100.9, 10.42.0.3, 203.0.113.7"], "198.51.100.9"),
        (["192.0.2.1", "198.51.100.9 , 10.42.0.3"], "198.51.100.9"),
        (["192.0.2.1", "10.42.0.3", "198.51.100.9"], "198.51.100.9"),
        # Only proxies: the one that is farthest away.
        (["10.42.0.1, 10.42.0.2"], "10.42.0.1"),
        (["198.51.100.9:4711"], "198.51.100.9"),
        (["[2001:db8::9]:4711"], "2001:db8::9"),
        (["[2001:db8::9]"], "2001:db8::9"),
        (["2001:DB8::9"], "2001:db8::9"),
        (["fe80::1%eth0"], "fe80::1"),
        (["::ffff:198.51.100.9"], "198.51.100.9"),
        # The proxy that wrote this is the last known hop.
        (["192.0.2.1, unknown"], None),
        (["192.0.2.1, unknown, 10.42.0.2"], "10.42.0.2"),
        (["192.0.2.1, "], None),
        (["192.0.2.1, 1.2.3.4.5"], None),
        (["192.0.2.1, [::1"], None),
        ([""], None),
        ([","], None),
        ([], None),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_proxy(
    lines: list[str], client: str | None
) -> None:
    assert found(*lines) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["for=198.51.100.9"], "198.51.100.9"),
        (["For=192.0.2.1;proto=http, for=198.51.100.9;proto=https;by=10.42.0.1"], "198.51.100.9"),
        (['proto=https; for="[2001:db8::9]:4711"'], "2001:db8::9"),
        (['for="198.51.100.9:80"', "for=10.42.0.1"], "198.51.100.9"),
        (["for=192.0.2.1, for=_hidden, for=10.42.0.1"], "10.42.0.1"),
        # A hop without an address ends the search: the client wrote the rest.
        (["for=192.0.2.1, proto=https"], None),
        # A quote that the client left open, and pairs inside of its quotes.
        (['for="192.0.2.1, for=198.51.100.9'], "198.51.100.9"),
        (['by="for=192.0.2.1;for=192.0.2.2", for=198.51.100.9'], "198.51.100.9"),
        (["for=192.0.2.1, by=for=192.0.2.1"], None),
        (["198.51.100.9"], None),
    ],
)
def test_forwarded_is_read_as_in_rfc_7239(lines: list[str], client: str | None) -> None:
    assert found(*lines, header="Forwarded") == client


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_only_the_configured_header_is_read(header: str) -> None:
    headers = CIMultiDict({"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.2"})
    expected = "192.0.2.1" if header == "X-Forwarded-For" else "192.0.2.2"
    assert TrustedProxies(NETWORKS, header).find_client(headers) == expected
    del headers[header]
    assert TrustedProxies(NETWORKS, header).find_client(headers) is None
