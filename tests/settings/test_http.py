"""Settings of originals on other web servers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.settings import HttpSettings


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("img.example.org", "img.example.org"),
        ("IMG.Example.ORG", "img.example.org"),
        ("*.Example.org", "*.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("minio", "minio"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_a_host_is_stored_in_canonical_form(given: str, stored: str) -> None:
    assert HttpSettings(hosts=(given,)).hosts == (stored,)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "*",
            "*.",
            "*.org",
            "img.*.org",
            "img*.example.org",
            "**.example.org",
            ".example.org",
        ),
        *("https://img.example.org", "img.example.org/", "img.example.org:443", "img.example.org."),
        *("user@img.example.org", "img example.org", "bücher.example", "img..example.org"),
        *("127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.01", "*.0.0.1", "a" * 300),
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        HttpSettings(hosts=(host,))


@pytest.mark.parametrize(
    "values",
    [
        {"ports": []},
        {"ports": [0]},
        {"ports": [65_536]},
        {"max_bytes": 0},
        {"timeout_s": 0},
        {"revalidate_s": -1},
        {"allow_private": ["0.0.0.0/0"]},
        {"allow_private": ["10.0.0.1/8"]},
        {"allow_private": ["intranet"]},
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HttpSettings.model_validate(values)


def test_by_default_nothing_is_fetched() -> None:
    section = HttpSettings()
    assert (section.hosts, section.ports, section.allow_private) == ((), (443,), ())
