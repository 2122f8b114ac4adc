"""JSON responses: caching headers, ETags, errors of routes, and problem details."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.domain import errors
from proxy.domain.errors import MediaNotFound, SmartserveError
from proxy.domain.request import Outcome
from proxy.web.headers import PRIVATE
from proxy.web.json_response import (
    TIER,
    Problem,
    cached_json,
    json_route,
    problem,
    refused,
    render_problem,
    with_etag,
)
from proxy.web.responses import Answer, BufferedResponse
from proxy.web.server.parser import MALFORMED, OVER_LIMIT

OUTCOME = Outcome("test")


@dataclass(frozen=True, slots=True)
class Value:
    number: int


class Routes:
    """A handler with one private route, whose result is given."""

    def __init__(self, result: object) -> None:
        self._result = result

    @json_route("purge_media")
    async def route(self, _request: web.Request) -> object:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    @json_route("metadata_extract", coded=True)
    async def coded(self, request: web.Request) -> object:
        request[TIER] = "forensic"
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def request(**headers: str) -> web.Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("GET", "/", headers=named)


def sent(response: Answer) -> tuple[str, str]:
    """Return head and body."""
    assert isinstance(response, BufferedResponse)
    head, _, body = response.last_bytes("id").decode().partition("\r\n\r\n")
    return head, body


def etag_of(response: Answer) -> str:
    head, _ = sent(response)
    return head.partition("ETag: ")[2].partition("\r\n")[0]


async def test_the_value_of_a_json_route_is_json_that_nobody_stores() -> None:
    head, body = sent(await Routes(Value(7)).route(request()))
    assert body == '{"number":7}'
    assert "Cache-Control: no-store" in head
    assert "Access-Control-Allow-Origin" not in head


async def test_an_error_of_a_json_route_becomes_a_private_problem() -> None:
    response = await Routes(MediaNotFound("no image")).route(request())
    head, body = sent(response)
    assert response.status == 404
    assert '"detail":"no image"' in body
    assert "Access-Control-Allow-Origin" not in head
    assert (response.outcome.route, response.outcome.error) == ("purge_media", "MediaNotFound")


@pytest.mark.parametrize(
    ("result", "code"), [(Value(7), "OK"), (errors.EmptyFile("empty"), "EMPTY_FILE")]
)
async def test_a_coded_route_records_code_and_tier(result: object, code: str) -> None:
    answer = await Routes(result).coded(request())
    assert (answer.outcome.route, answer.outcome.code) == ("metadata_extract", code)
    assert answer.outcome.tier == "forensic"
    assert (await Routes(Value(7)).route(request())).outcome.code == ""


async def test_a_json_route_may_return_a_complete_response() -> None:
    response = cached_json(request(), {}, lifetime="no-cache", outcome=OUTCOME)
    assert await Routes(response).route(request()) is response


async def test_unforeseen_errors_of_a_json_route_are_not_hidden() -> None:
    with pytest.raises(ValueError, match="a bug"):
        await Routes(ValueError("a bug")).route(request())


def test_equal_values_have_equal_etags() -> None:
    first, second = (
        cached_json(request(), Value(7), lifetime="public", outcome=OUTCOME) for _ in range(2)
    )
    assert etag_of(first) == etag_of(second)
    other = cached_json(request(), Value(8), lifetime="public", outcome=OUTCOME)
    assert etag_of(first) != etag_of(other)


def test_a_client_with_the_current_value_gets_a_304_without_a_body() -> None:
    first = cached_json(request(), Value(7), lifetime="public", outcome=OUTCOME)
    known = request(If_None_Match=f'"other", {etag_of(first)}')
    again = cached_json(known, Value(7), lifetime="public", outcome=OUTCOME)
    head, body = sent(again)
    assert (again.status, body) == (304, "")
    assert "Cache-Control: public" in head
    assert "\r\nContent-Type:" not in head
    changed = cached_json(known, Value(8), lifetime="public", outcome=OUTCOME)
    assert changed.status == 200


def test_content_headers_are_sent_with_the_body_only() -> None:
    content = [("Content-Encoding", "gzip")]
    full = with_etag(request(), b"x", content, [], outcome=OUTCOME)
    assert "Content-Encoding: gzip" in sent(full)[0]
    known = request(If_None_Match="*")
    empty = with_etag(known, b"x", content, [], outcome=OUTCOME)
    assert "Content-Encoding" not in sent(empty)[0]


def parsed(response: BufferedResponse) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the headers, with lower-case names, and the JSON."""
    head, _, body = response.last_bytes("id").partition(b"\r\n\r\n")
    lines = (line.partition(": ") for line in head.decode().split("\r\n")[1:])
    members: dict[str, Any] = orjson.loads(body)
    return {name.lower(): value for name, _, value in lines}, members


def test_an_error_becomes_json_with_title_status_and_detail() -> None:
    response = problem(errors.MediaNotFound("no image"), outcome=OUTCOME)
    headers, members = parsed(response)
    assert headers["content-type"] == "application/problem+json"
    assert members == {"title": "Not found", "status": 404, "detail": "no image"}
    assert response.status == 404
    assert response.outcome.error == "MediaNotFound"


def test_a_bad_parameter_is_named_with_the_allowed_values() -> None:
    _, members = parsed(problem(errors.BadParameter("w", "1 to 9"), outcome=OUTCOME))
    assert (members["parameter"], members["allowed"]) == ("w", "1 to 9")


def test_a_range_error_has_the_full_length() -> None:
    headers, _ = parsed(problem(errors.RangeNotSatisfiable(99), outcome=OUTCOME))
    assert headers["content-range"] == "bytes */99"


@pytest.mark.parametrize("forwarded", ["used", None])
def test_a_401_has_the_challenge_and_says_whether_a_proxy_forwarded_it(
    forwarded: str | None,
) -> None:
    error = errors.Unauthorized("no", challenge="Bearer")
    error.forwarded = forwarded
    headers, members = parsed(problem(error, outcome=OUTCOME))
    assert headers["www-authenticate"] == "Bearer"
    assert members.get("forwarded") == forwarded


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.QueueFull("busy", retry_after_s=3), "3"),
        (errors.QueueFull("busy"), "5"),
        (errors.MediaNotReady("soon", retry_after_s=9), "9"),
        (errors.MediaNotFound("no"), None),
    ],
)
def test_a_503_always_has_retry_after(error: SmartserveError, seconds: str | None) -> None:
    headers, _ = parsed(problem(error, outcome=OUTCOME))
    assert headers.get("retry-after") == seconds


@pytest.mark.parametrize(
    ("error", "cache_control"),
    [
        (errors.MediaNotFound("no"), "public, max-age=60"),
        (errors.MediaNotReady("soon", retry_after_s=9), "public, max-age=9"),
        (errors.MediaNotReady("later", retry_after_s=90), "public, max-age=60"),
        (errors.QueueFull("busy"), "no-store"),
        (errors.BadParameter("w", "1"), "no-store"),
    ],
)
def test_only_a_404_may_be_cached(error: SmartserveError, cache_control: str) -> None:
    headers, _ = parsed(problem(error, outcome=OUTCOME, not_found_s=60))
    assert headers["cache-control"] == cache_control


def test_a_404_is_not_cached_unless_the_caller_allows_it() -> None:
    headers, _ = parsed(problem(errors.MediaNotFound("no"), outcome=OUTCOME))
    assert headers["cache-control"] == "no-store"


def test_a_404_in_place_of_a_negotiated_image_varies_by_accept() -> None:
    headers, _ = parsed(problem(errors.MediaNotFound("no"), outcome=OUTCOME, negotiated=True))
    assert headers["vary"] == "Accept"
    headers, _ = parsed(problem(errors.QueueFull("busy"), outcome=OUTCOME, negotiated=True))
    assert "vary" not in headers


def test_private_problems_cannot_be_read_by_other_origins() -> None:
    headers, _ = parsed(problem(errors.AccessDisabled("no"), outcome=OUTCOME, security=PRIVATE))
    assert "access-control-allow-origin" not in headers
    headers, _ = parsed(problem(errors.AccessDisabled("no"), outcome=OUTCOME))
    assert headers["access-control-allow-origin"] == "*"


def test_a_malformed_request_and_one_over_the_limit_are_counted_apart() -> None:
    assert refused(MALFORMED).outcome.route == "malformed"
    response = refused(OVER_LIMIT)
    headers, members = parsed(response)
    assert response.outcome.route == "over_limit"
    assert (headers["retry-after"], members["status"]) == ("5", 503)


def test_a_problem_without_an_error_is_not_stored() -> None:
    response = render_problem(Problem("Not implemented", 501, "no XML"), outcome=OUTCOME)
    headers, members = parsed(response)
    assert (headers["cache-control"], members["detail"]) == ("no-store", "no XML")
