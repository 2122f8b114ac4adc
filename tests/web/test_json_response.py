"""JSON responses: caching headers, ETags, and errors of private routes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.domain.errors import MediaNotFound
from proxy.domain.request import Outcome
from proxy.web.json_response import (
    Answer,
    cached_json,
    private_route,
    uncached_json,
    with_etag,
)
from proxy.web.responses import BufferedResponse

OUTCOME = Outcome("test")


@dataclass(frozen=True, slots=True)
class Value:
    number: int


class Routes:
    """A handler with one private route, whose result is given."""

    def __init__(self, result: object) -> None:
        self._result = result

    @private_route("purge_media")
    async def route(self, _request: web.Request) -> object:
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


async def test_the_value_of_a_private_route_is_json_that_nobody_stores() -> None:
    head, body = sent(await Routes(Value(7)).route(request()))
    assert body == '{"number":7}'
    assert "Cache-Control: no-store" in head
    assert "Access-Control-Allow-Origin" not in head


async def test_an_error_of_a_private_route_becomes_a_private_problem() -> None:
    response = await Routes(MediaNotFound("no image")).route(request())
    head, body = sent(response)
    assert response.status == 404
    assert '"detail":"no image"' in body
    assert "Access-Control-Allow-Origin" not in head
    assert (response.outcome.route, response.outcome.error) == ("purge_media", "MediaNotFound")


async def test_a_private_route_may_return_a_complete_response() -> None:
    response = uncached_json({}, OUTCOME)
    assert await Routes(response).route(request()) is response


async def test_unforeseen_errors_of_a_private_route_are_not_hidden() -> None:
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
