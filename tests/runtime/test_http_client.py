"""Parsing Retry-After and reading bounded bodies."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.runtime.http_client import (
    PrivateAddress,
    is_public,
    open_session,
    public_connector,
    read_bounded,
    retry_after_s,
)

DAY_S = 86_400


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("999999999", DAY_S),
        ("99999999999999999999999", DAY_S),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY_S),
        ("Fri, 31 Dec 9999 23:59:59 -2300", DAY_S),
    ],
)
def test_a_number_or_a_date_is_bounded(value: str, seconds: int) -> None:
    assert retry_after_s({"Retry-After": value}) == seconds


def test_a_date_ahead_is_the_time_until_then() -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    assert (
        3590 <= (retry_after_s({"Retry-After": format_datetime(ahead, usegmt=True)}) or 0) <= 3601
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-5",
        "1.5",
        "²",
        "Mon, 01 Jan 2024 00:00:00 +9999999999999",
        "Mon, 99999999999999999999 Jan 2024 00:00:00 GMT",
    ],
)
def test_what_cannot_be_parsed_is_none(value: str) -> None:
    assert retry_after_s({"Retry-After": value}) is None


def test_no_field_is_none() -> None:
    assert retry_after_s({}) is None


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async def hundred(request: web.Request) -> web.Response:
        del request
        return web.Response(body=b"x" * 100)

    app = web.Application()
    app.router.add_get("/", hundred)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_a_body_within_the_limit_is_returned(url: str) -> None:
    async with open_session() as session, session.get(url) as response:
        assert await read_bounded(response, 100) == b"x" * 100


async def test_a_longer_body_is_none(url: str) -> None:
    async with open_session() as session, session.get(url) as response:
        assert await read_bounded(response, 99) is None


async def test_a_session_keeps_no_cookies_and_reads_no_proxy_variables() -> None:
    async with open_session() as session:
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
        assert not session.trust_env


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "0.0.0.0"),
        *("255.255.255.255", "224.0.0.1", "239.1.1.1", "240.0.0.1", "192.0.0.1", "192.0.2.1"),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("::", "::1", "::127.0.0.1", "::808:808", "fe80::1", "fe80::1%eth0", "fec0::1"),
        *("fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "100::1", "5f00::1"),
        # Addresses of IPv4 inside of others.
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:100.64.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
        *("2002:7f00:1::", "2002:a00:1::", "2002:808:808::"),
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_every_other_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


async def test_a_host_with_one_private_address_gets_no_connector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = resolved(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(PrivateAddress, match=r"10\.0\.0\.1"):
        await public_connector("hooks.example.org", 443)
    assert len(answers) == 1


async def test_a_host_is_resolved_once_for_the_check_and_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second answer could be another address."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="received")

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server:
        answers = resolved(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        connector = await public_connector(
            "hooks.example.org", server.port or 0, allowed=lambda _: True
        )
        async with open_session(connector=connector) as session:
            url = f"http://hooks.example.org:{server.port}/"
            async with session.get(url) as response:
                assert await response.text() == "received"
    assert len(answers) == 1


def resolved(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let the resolver give these answers; return the names that it is asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_arguments: object, **_options: object) -> list[object]:
        asked.append(host)
        found = answers[len(asked) - 1]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (one, port))
            for one in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked
