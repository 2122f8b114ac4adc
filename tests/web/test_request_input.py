"""Ids and whole numbers; request bodies: limits, timeouts, and what is rejected."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import HttpVersion10
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from proxy.domain.errors import (
    BadParameter,
    BodyTooLarge,
    BodyTooSlow,
    RequestError,
    UnsupportedBody,
)
from proxy.web.request_input import (
    accept_body,
    parse_id,
    path_id,
    read_json,
    read_with_timeout,
    require_complete,
    require_json,
    wants_less,
    whole_number,
)
from tests.web.bodies import body_request

FOREVER_S = 600


async def test_a_json_object_is_read_from_several_chunks() -> None:
    request = body_request([b'{"ids":', b" [1]}"])
    assert await read_json(request, max_bytes=100, stall_s=FOREVER_S) == {"ids": [1]}


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b'{"ids":', b"\xff"])
async def test_a_body_that_is_not_a_json_object_is_rejected(body: bytes) -> None:
    with pytest.raises(RequestError, match="JSON"):
        await read_json(body_request([body]), max_bytes=100, stall_s=FOREVER_S)


async def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    assert await read_json(body_request([b'{"a":1}']), max_bytes=7, stall_s=FOREVER_S) == {"a": 1}


async def test_a_body_without_a_length_is_cut_at_the_limit() -> None:
    request = body_request([b'{"a":1}'], complete=False)
    with pytest.raises(BodyTooLarge, match="at most 6 bytes"):
        await read_json(request, max_bytes=6, stall_s=FOREVER_S)


async def test_a_length_over_the_limit_is_rejected_before_the_body_is_read() -> None:
    request = body_request(complete=False, headers={"Content-Length": "101"})
    with pytest.raises(BodyTooLarge):
        await read_json(request, max_bytes=100, stall_s=FOREVER_S)


async def test_a_body_that_stops_arriving_is_too_slow() -> None:
    request = body_request([b"{"], complete=False)
    with pytest.raises(BodyTooSlow, match="no data of the body arrived for 0 s"):
        await read_json(request, max_bytes=100, stall_s=0)


async def test_a_disconnect_is_reported_as_a_broken_body() -> None:
    async def read() -> None:
        raise ConnectionResetError

    with pytest.raises(RequestError, match="ended early"):
        await read_with_timeout(read(), FOREVER_S)


async def test_a_cancelled_read_stays_cancelled() -> None:
    request = body_request(complete=False)
    reading = asyncio.create_task(read_json(request, max_bytes=9, stall_s=FOREVER_S))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_body_with_a_malformed_end_is_not_complete() -> None:
    request = body_request(complete=False)
    require_complete(request)
    request.content.set_exception(ValueError("bad chunk"))
    with pytest.raises(RequestError, match="ended early"):
        require_complete(request)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
async def test_a_compressed_body_is_rejected(encoding: str) -> None:
    with pytest.raises(UnsupportedBody):
        accept_body(body_request(headers={"Content-Encoding": encoding}), 9)


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": " Identity "}])
async def test_a_plain_body_is_accepted(headers: dict[str, str]) -> None:
    accept_body(body_request(headers=headers), 9)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
async def test_json_is_recognised_by_its_content_type(kind: str) -> None:
    require_json(body_request(headers={"Content-Type": kind}))


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
async def test_other_content_types_are_rejected(headers: dict[str, str]) -> None:
    with pytest.raises(UnsupportedBody):
        require_json(body_request(headers=headers))


EXPECT = {"Expect": "100-Continue"}


async def test_a_client_that_waits_gets_100_continue() -> None:
    request = body_request(complete=False, headers=EXPECT)
    accept_body(request, 9)
    assert request.transport is not None
    request.transport.write.assert_called_once_with(b"HTTP/1.1 100 Continue\r\n\r\n")  # type: ignore[attr-defined]


async def test_no_100_continue_is_sent_to_clients_that_do_not_wait() -> None:
    for request in (
        body_request(complete=False),
        body_request(complete=False, headers=EXPECT, version=HttpVersion10),
        body_request([b"early"], complete=False, headers=EXPECT),
    ):
        accept_body(request, 9)
        assert request.transport is not None
        request.transport.write.assert_not_called()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("70", 70), ("9" * 19, 10**19 - 1)])
def test_up_to_nineteen_digits_are_an_id(text: str, number: int) -> None:
    assert parse_id("id", text) == number


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.0", " 1", "1\n", "\u0661", "9" * 20, "00", "01"]
)
def test_any_other_text_is_rejected_with_the_parameters_name(text: str) -> None:
    with pytest.raises(BadParameter, match="media_id must be 1 to 19 digits") as caught:
        parse_id("media_id", text)
    assert caught.value.parameter == "media_id"


def test_a_path_id_is_read_from_the_matched_url() -> None:
    request = make_mocked_request("GET", "/", match_info={"id": "7"})
    assert path_id(request) == 7


@pytest.mark.parametrize(("value", "number"), [(7, 7), (7.0, 7), (-1, -1), (2.0**53, 2**53)])
def test_whole_numbers_are_accepted_with_and_without_a_fraction(value: object, number: int) -> None:
    assert whole_number(value) == number


@pytest.mark.parametrize("value", [True, "7", 7.5, float("inf"), float("nan"), 2.0**54, None, []])
def test_other_json_values_are_not_whole_numbers(value: object) -> None:
    assert whole_number(value) is None


@pytest.mark.parametrize(
    ("headers", "less"),
    [
        ({}, False),
        ({"Save-Data": "on"}, True),
        ({"save-data": "On "}, True),
        ({"Save-Data": "?1"}, True),
        ({"Save-Data": "on; level=2"}, True),
        ({"Save-Data": "off"}, False),
        ({"Save-Data": "?0"}, False),
        ({"Save-Data": "only"}, False),
        ({"Save-Data": ""}, False),
        ({"ECT": "slow-2g"}, True),
        ({"ECT": "2g"}, True),
        ({"ect": " 3G"}, True),
        ({"ECT": "4g"}, False),
        ({"ECT": "5g"}, False),
        ({"ECT": "2g, 4g"}, False),
        ({"Save-Data": "on", "ECT": "4g"}, True),
        ({"Save-Data": "off", "ECT": "2g"}, True),
    ],
)
def test_client_hints_request_less_if_data_is_saved_or_the_connection_is_slow(
    headers: dict[str, str], *, less: bool
) -> None:
    assert wants_less(CIMultiDict(headers)) is less
