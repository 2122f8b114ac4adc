"""Problem details: the headers and members of error responses."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.domain import errors
from proxy.domain.errors import SmartserveError
from proxy.domain.request import Outcome
from proxy.web.headers import PRIVATE
from proxy.web.problem_details import problem, refused, render_problem
from proxy.web.responses import BufferedResponse
from proxy.web.server.request_validation import MALFORMED, OVER_LIMIT

OUTCOME = Outcome("serve")


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


@pytest.mark.parametrize("forwarded", [True, False, None])
def test_a_401_has_the_challenge_and_says_whether_a_proxy_forwarded_it(
    *, forwarded: bool | None
) -> None:
    error = errors.Unauthorized("no", challenge="Bearer")
    error.forwarded = forwarded
    headers, members = parsed(problem(error, outcome=OUTCOME))
    assert headers["www-authenticate"] == "Bearer"
    assert members.get("forwarded") is forwarded


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
    response = render_problem(501, "Not implemented", "no XML", outcome=OUTCOME)
    headers, members = parsed(response)
    assert (headers["cache-control"], members["detail"]) == ("no-store", "no XML")
    assert response.body_bytes(make_mocked_request("HEAD", "/")) == 0
