"""Ids in URLs and whole numbers in JSON."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.domain.errors import BadParameter
from proxy.web.id_params import parse_id, path_id, whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9" * 19, 10**19 - 1)])
def test_up_to_nineteen_digits_are_an_id(text: str, number: int) -> None:
    assert parse_id("id", text) == number


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", " 1", "1\n", "\u0661", "9" * 20])
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
