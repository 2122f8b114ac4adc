"""Parsing Retry-After and reading bounded bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.runtime.http_client import (
    open_session,
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
