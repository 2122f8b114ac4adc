"""Parsing Retry-After, reading bounded bodies, and connecting to allowed addresses only."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.runtime.http_client import (
    IPAddress,
    guarded_connector,
    is_forbidden,
    is_public,
    open_session,
    public_or_in,
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


PUBLIC = (
    *("8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8"),
    *("64:ff9b::808:808", "2a00:1450:4001:80b::200e"),
)
NOT_PUBLIC = (
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "0.0.0.0"),
    *("255.255.255.255", "224.0.0.1", "239.1.1.1", "240.0.0.1", "192.0.0.1", "192.0.2.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "233.252.0.1", "192.88.99.1"),
    *("::", "::1", "::127.0.0.1", "::808:808", "fe80::1", "fe80::1%eth0", "fec0::1"),
    *("fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "100::1", "5f00::1", "3fff::1"),
    # Addresses of IPv4 inside of others: mapped, translated, NAT64, 6to4, Teredo.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:100.64.0.1"),
    *("::ffff:0:7f00:1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::808:808", "2002:7f00:1::", "2002:a00:1::", "2002:808:808::"),
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    # The addresses that imgproxy and imagor refuse, by their published tests.
    *("127.0.0.1", "0.0.0.0", "169.254.0.1", "192.168.0.1", "169.254.5.8", "10.0.4.3", "::1"),
)
METADATA = (
    *("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe", "fe80::a9fe:a9fe%eth0"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
)
"""Metadata services of clouds, in all forms."""


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))
    assert not is_forbidden(ip_address(address))


@pytest.mark.parametrize("address", [*NOT_PUBLIC, *METADATA])
def test_every_other_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", [*METADATA, "224.0.0.1", "ff02::1"])
def test_no_setting_allows_the_metadata_service_of_a_cloud(address: str) -> None:
    assert is_forbidden(ip_address(address))
    assert not public_or_in(["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"])(ip_address(address))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "fd12:3456::1", "100.64.0.1"])
def test_an_operator_may_choose_any_other_private_address(address: str) -> None:
    assert not is_forbidden(ip_address(address))


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        *(("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd12::1", True), ("8.8.8.8", True)),
        *(("10.2.0.1", False), ("127.0.0.1", False), ("fd13::1", False)),
        # A tunnel to the network is not the network.
        *(("64:ff9b::a01:203", False), ("2002:a01:203::", False)),
    ],
)
def test_private_networks_are_allowed_in_addition_to_public_addresses(
    address: str, *, allowed: bool
) -> None:
    assert public_or_in(["10.1.0.0/16", "fd12::/16"])(ip_address(address)) is allowed


@asynccontextmanager
async def answering(host: str = "127.0.0.1") -> AsyncIterator[tuple[TestServer, list[str]]]:
    """Run a server and yield it with the paths that were requested."""
    received: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        received.append(request.path)
        return web.Response(text="received")

    app = web.Application()
    app.router.add_get("/{any:.*}", answer)
    server = TestServer(app, host=host)
    async with server:
        yield server, received


def only(*addresses: str) -> Callable[[IPAddress], bool]:
    return lambda address: str(address) in addresses


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "2130706433", "0x7f000001"),
        *("0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0", "[::1]", "[::]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]"),
        # Full-width digits and dots, which IDNA maps to ASCII.
        *("\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021"),
    ],
)
async def test_no_spelling_of_a_private_address_is_connected_to(host: str) -> None:
    async with answering() as (server, received):
        async with open_session(connector=guarded_connector()) as session:
            with pytest.raises((aiohttp.ClientError, ValueError)):
                await session.get(f"http://{host}:{server.port}/")
        assert received == []


async def test_a_redirect_to_a_private_literal_is_not_connected_to() -> None:
    """Also if the client follows redirects itself, and with a literal that no resolver sees."""
    async with answering("127.0.0.1") as (server, received):

        async def redirect(_request: web.Request) -> web.Response:
            raise web.HTTPFound(f"http://127.0.0.1:{server.port}/secret")

        app = web.Application()
        app.router.add_get("/", redirect)
        async with (
            TestServer(app, host="127.0.0.2") as other,
            open_session(connector=guarded_connector(only("127.0.0.2"))) as session,
        ):
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get(f"http://127.0.0.2:{other.port}/")
    assert isinstance(caught.value.os_error, PermissionError)
    assert received == []


async def test_a_host_whose_addresses_are_all_private_is_refused_by_one_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved(monkeypatch, ["10.0.0.1", "192.168.0.1"])
    async with open_session(connector=guarded_connector()) as session:
        with pytest.raises(aiohttp.ClientConnectorError, match="is not allowed") as caught:
            await session.get("http://hooks.example.org/")
    assert isinstance(caught.value.os_error, PermissionError)


async def test_of_several_addresses_only_allowed_ones_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with answering("127.0.0.1") as (private, received):
        app = web.Application()

        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text="public")

        app.router.add_get("/", answer)
        port = private.port or 0
        async with TestServer(app, host="127.0.0.2", port=port):
            resolved(monkeypatch, ["127.0.0.1", "127.0.0.2"])
            async with (
                open_session(connector=guarded_connector(only("127.0.0.2"))) as session,
                session.get(f"http://img.example.org:{port}/") as response,
            ):
                assert await response.text() == "public"
    assert received == []


async def test_a_name_that_is_resolved_anew_to_a_private_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with answering("127.0.0.1") as (server, received):
        resolved(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
        url = f"http://rebind.example.org:{server.port}/"
        for _ in range(2):
            # A new connector has no cached answer of the resolver.
            async with open_session(connector=guarded_connector(only("127.0.0.2"))) as session:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(url)
    assert received == []


async def test_by_default_a_session_does_not_connect_to_metadata_services() -> None:
    async with open_session() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get("http://169.254.169.254/latest/meta-data")
    assert isinstance(caught.value.os_error, PermissionError)


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
