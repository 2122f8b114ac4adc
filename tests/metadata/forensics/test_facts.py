"""Observations, and the values of tags."""

from __future__ import annotations

from typing import Any

from proxy.metadata.forensics.facts import excerpt, leaves, observation


def test_an_observation_has_its_four_parts() -> None:
    assert observation("what", "where", "means", "one", "two") == {
        "what": "what",
        "where": "where",
        "means": "means",
        "innocent_reasons": ["one", "two"],
    }


def test_lists_and_structures_have_a_value_for_each_leaf() -> None:
    groups: Any = {
        "IFD0": {"Make": "Canon", "Copy1:Make": "Sony"},
        "XMP-xmpMM": {"History": [{"When": "2020", "Changed": ["/", "/metadata"]}]},
    }
    assert [(leaf.name, leaf.path, leaf.value) for leaf in leaves(groups)] == [
        ("Make", "IFD0:Make", "Canon"),
        ("Make", "IFD0:Copy1:Make", "Sony"),
        ("When", "XMP-xmpMM:History[0].When", "2020"),
        ("Changed", "XMP-xmpMM:History[0].Changed[0]", "/"),
        ("Changed", "XMP-xmpMM:History[0].Changed[1]", "/metadata"),
    ]


def test_facts_about_our_temporary_file_are_left_out() -> None:
    groups: Any = {group: {"FileModifyDate": "x"} for group in ("System", "File", "ExifTool2", "")}
    assert list(leaves(groups)) == []


def test_values_that_are_nested_too_deeply_end() -> None:
    value: Any = "end"
    for _ in range(5000):
        value = [value]
    assert list(leaves({"XMP": {"Deep": value}})) == []


def test_an_excerpt_is_short() -> None:
    assert excerpt(7) == "7"
    assert len(excerpt("x" * 10_000)) == 200
