"""The generator of OpenAPI parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from proxy.web.openapi import (
    PROBLEMS,
    cached,
    choice,
    document,
    operation,
    path,
    query,
    response,
)


@dataclass(frozen=True, slots=True)
class Inner:
    """An inner value."""

    number: int


@dataclass(frozen=True, slots=True)
class Outer:
    """What a route returns.

    A second paragraph.
    """

    inner: Inner
    success: Literal[True] = True
    extra: str | None = None


async def return_it() -> Outer:
    """Return it.

    A second paragraph.
    """
    raise NotImplementedError


def test_a_type_becomes_a_reference_to_its_schema() -> None:
    resolved = document([operation("GET /x", return_it)])
    found = resolved["paths"]["/x"]["get"]["responses"]["200"]
    assert found["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Outer"}
    assert set(resolved["components"]["schemas"]) == {"Outer", "Inner"}


def test_a_response_is_described_by_the_first_line_of_the_docstring() -> None:
    assert response(Outer)["description"] == "What a route returns."
    assert response(Outer, "Another text.")["description"] == "Another text."


def test_the_id_the_summary_and_the_json_are_those_of_the_handler() -> None:
    route, handler, one, _ = operation("GET /x", return_it)
    assert (route, handler) == ("GET /x", return_it)
    assert (one["operationId"], one["summary"]) == ("returnIt", "Return it.")
    assert list(one["responses"]) == ["200"]


def test_in_a_response_only_members_with_the_default_none_are_optional() -> None:
    schema = document([operation("GET /x", return_it)])["components"]["schemas"]["Outer"]
    assert schema["required"] == ["inner", "success"]
    assert "default" not in schema["properties"]["extra"]


def test_in_a_request_members_with_a_default_are_optional() -> None:
    resolved = document([operation("POST /x", return_it, responses=Inner, body=Outer)])
    assert resolved["components"]["schemas"]["Outer"]["required"] == ["inner"]


def test_problems_have_common_descriptions_that_texts_replace() -> None:
    problems = (400, 404, (404, "Not here."), (507, "Full."))
    one = operation("GET /x", return_it, problems=problems).description
    texts = {status: found["description"] for status, found in one["responses"].items()}
    assert texts["400"] == PROBLEMS[400]
    assert (texts["404"], texts["507"]) == ("Not here.", "Full.")


def test_reading_a_body_and_checking_a_key_have_problems_of_their_own() -> None:
    one = operation("GET /x", return_it, body=Inner, security="key").description
    assert {"400", "401", "408", "413", "415", "429", "503"} < set(one["responses"])


def test_members_that_are_not_given_are_left_out() -> None:
    bare = operation("GET /x", return_it).description
    assert set(bare) == {"operationId", "summary", "responses"}
    one = operation("GET /x", return_it, path("id", "An id."), security="key").description
    assert one["security"] == [{"key": []}]
    assert [parameter["name"] for parameter in one["parameters"]] == ["id"]


def test_head_has_the_responses_of_get_without_content() -> None:
    one = operation(
        "GET /x",
        return_it,
        path("id", "An id."),
        responses=cached(Outer),
        problems=[404],
        head="Return its headers.",
    )
    methods = document([one])["paths"]["/x"]
    get, head = methods["get"], methods["head"]
    assert (head["operationId"], head["summary"]) == ("returnItHead", "Return its headers.")
    assert head["parameters"] == get["parameters"]
    assert set(head["responses"]) == {"200", "304", "404", "412"}
    assert not any("content" in found for found in head["responses"].values())
    assert "content" in get["responses"]["200"]


@pytest.mark.parametrize("status", ["200", "304"])
def test_cached_responses_promise_an_etag(status: str) -> None:
    assert cached(Outer)[status]["headers"]["ETag"]["required"] is True


def test_a_query_parameter_is_optional_unless_extra_says_otherwise() -> None:
    assert query("q", "Text.", {})["required"] is False
    assert query("q", "Text.", {}, required=True)["required"] is True


def test_a_choice_allows_the_empty_value_of_an_unfilled_template() -> None:
    assert choice(["a", "b"], "a") == {"type": "string", "enum": ["a", "b", ""], "default": "a"}
