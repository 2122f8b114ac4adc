"""Conversions of foreign values: nothing is invented and nothing raises."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.generation.finding import (
    CONFIDENCE,
    EvidenceClass,
    ParserResult,
    as_float,
    as_int,
    as_text,
    load_json,
    load_object,
    loras_of,
    model_name,
    plain,
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_the_confidence_of_each_class_is_that_of_the_specification() -> None:
    assert list(CONFIDENCE.values()) == [0.95, 0.9, 0.7, 0.6, 0.5, 0.3]
    assert set(CONFIDENCE) == set(EvidenceClass)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (18446744073709551615, "18446744073709551615"),
        ("007", "007"),
        (" 7.50 ", "7.50"),
        ("True", "True"),
        (12.0, "12"),
        (True, None),
        ([], None),
        ("", None),
    ],
)
def test_a_seed_is_text_as_written(value: Any, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [("20", 20), (20.0, 20), ("20.5", None), ("x", None), (10**400, None), (True, None)],
)
def test_integers_are_read_from_numbers_and_texts(value: Any, number: int | None) -> None:
    assert as_int(value) == number


@pytest.mark.parametrize("value", ["1e400", "nan", "-inf", math.inf, None, {}, "seven"])
def test_numbers_that_json_cannot_hold_are_unknown(value: Any) -> None:
    assert as_float(value) is None


def test_json_with_nan_is_read_and_what_is_no_json_is_not() -> None:
    assert load_json('{"a": [NaN, Infinity]}') == {"a": [None, None]}
    assert load_object('"{\\"a\\": 1}"') == {"a": 1}
    for text in ("", "  ", "plain", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "12"):
        assert load_object(text) is None


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("folder\\sub/model v1.0.safetensors", "model v1.0"),
        ("model.ckpt", "model"),
        ("v1-5-pruned", "v1-5-pruned"),
        ("flux.gguf", "flux"),
        ("", None),
        (None, None),
    ],
)
def test_a_checkpoint_has_no_folder_and_no_extension(written: str | None, name: str | None) -> None:
    assert model_name(written) == name


def test_loras_of_a_prompt_are_found_once() -> None:
    assert list(loras_of("a <lora:one:0.8>, <lyco:two>, <lora:x:1:0.5>")) == [
        ("one", "0.8"),
        ("two", None),
        ("x", "1"),
    ]
    found = ParserResult()
    found.add_lora("a.safetensors", "0.5")
    found.add_lora("folder/a", 1)
    assert found.loras == [{"name": "a", "weight": 0.5, "hash": None}]


def test_nested_values_are_cut() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"a": [deep]}
    assert str(plain(deep)).count("a") == 20


def test_an_integer_that_cannot_be_written_is_unknown() -> None:
    assert as_text(10**5000) is None


@given(value=ANYTHING)
def test_conversions_never_raise(value: Any) -> None:
    as_text(value)
    as_int(value)
    as_float(value)
    load_object(value)
    plain(value)
