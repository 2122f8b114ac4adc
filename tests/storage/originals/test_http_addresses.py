"""Which addresses are allowed; `test_http_store` sends requests to all kinds of them."""

from __future__ import annotations

import pytest

from proxy.settings import HttpSettings
from proxy.storage.originals.http_addresses import AllowedAddresses, ForbiddenAddress, is_address

FIRST = "https://img.example.org/a/p.jpg"


@pytest.fixture
def addresses() -> AllowedAddresses:
    hosts = ["img.example.org", "*.cdn.example.org", "2001:db8::1"]
    return AllowedAddresses(HttpSettings.model_validate({"hosts": hosts, "ports": [443, 8443]}))


@pytest.mark.parametrize(
    ("path", "address"),
    [("http://a/b", True), ("HTTPS://a/b", True), ("s3://a/b", False), ("media/a.jpg", False)],
)
def test_an_address_of_a_web_server_begins_with_its_scheme(path: str, *, address: bool) -> None:
    assert is_address(path) is address


@pytest.mark.parametrize(
    "path",
    [
        FIRST,
        "https://img.example.org:8443/p.jpg",
        "http://img.example.org:443/p.jpg",
        "https://IMG.example.org/p.jpg",
        "https://one.cdn.example.org/p.jpg",
        "https://[2001:db8:0::1]/p.jpg",
    ],
)
def test_a_listed_host_and_port_is_allowed(addresses: AllowedAddresses, path: str) -> None:
    assert addresses.parse(f"{path}#fragment").path == addresses.parse(path).path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("https://[::1/", "not a valid address"),
        ("ftp://img.example.org/p.jpg", "img.example.org: scheme ftp"),
        ("https://user:secret@img.example.org/", "the address contains a user name or password"),
        ("https://example.org/p.jpg", "example.org: not in http.hosts"),
        ("https://cdn.example.org/p.jpg", "cdn.example.org: not in http.hosts"),
        ("http://img.example.org/p.jpg", "port 80 is not in http.ports"),
    ],
)
def test_the_reason_of_a_refusal_contains_no_secret(
    addresses: AllowedAddresses, path: str, reason: str
) -> None:
    with pytest.raises(ForbiddenAddress, match=reason) as refused:
        addresses.parse(path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("q.jpg", "https://img.example.org/a/q.jpg"),
        ("//one.cdn.example.org/q.jpg", "https://one.cdn.example.org/q.jpg"),
        ("", FIRST),
    ],
)
def test_a_redirect_may_be_relative(
    addresses: AllowedAddresses, location: str, target: str
) -> None:
    assert str(addresses.redirected(addresses.parse(FIRST), location)) == target


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://img.example.org:443/q.jpg", "redirects from https to http"),
        ("https://[::1/", "redirects to no valid address"),
        ("https://evil.example.com/q.jpg", "evil.example.com: not in http.hosts"),
    ],
)
def test_a_redirect_is_checked_as_the_first_address_is(
    addresses: AllowedAddresses, location: str, reason: str
) -> None:
    with pytest.raises(ForbiddenAddress, match=reason):
        addresses.redirected(addresses.parse(FIRST), location)
