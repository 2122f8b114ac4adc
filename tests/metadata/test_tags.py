"""exiftool's answer as groups of tags that are safe in JSON."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy.metadata.tags import (
    MAX_STRING_BYTES,
    Cleaner,
    NumberText,
    all_of,
    json_bytes,
    number_of,
    parse,
)


def printed(tags: str) -> bytes:
    return f'[{{"SourceFile": "x.png", {tags}}}]'.encode()


def cleaned(tags: str) -> Any:
    return Cleaner().clean(parse(printed(tags)), "groups")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("7", 7),
        ("7.50", "7.50"),
        ("0.00625", 0.00625),
        ("1e400", "1e400"),
        ("-1e400", "-1e400"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("18446744073709551615", "18446744073709551615"),
        ("9007199254740993", "9007199254740993"),
        ("9007199254740992", 9007199254740992),
        ('"007"', "007"),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_a_number_is_one_only_if_json_shows_it_as_it_is_written(
    written: str, expected: object
) -> None:
    assert cleaned(f'"PNG:Seed": {written}') == {"PNG": {"Seed": expected}}
    assert json.loads(json.dumps(expected, allow_nan=False)) == expected


def test_equal_keys_are_both_kept() -> None:
    found = cleaned('"PNG:Comment": "one", "PNG:Copy1:Comment": "two", "PNG:Comment": "three"')
    assert sorted(found["PNG"].values()) == ["one", "three", "two"]
    assert set(all_of(found, "PNG", "Comment")) >= {"one", "two"}


def test_ten_thousand_equal_names_take_little_time() -> None:
    count = 10_000
    tags = ", ".join(
        f'"PNG:{f"Copy{one}:" if one else ""}Comment": "{one}"' for one in range(count)
    )
    equal = ", ".join(f'"XMP-dc:Title": "{one}"' for one in range(count))
    began = time.process_time()
    found = parse(printed(f"{tags}, {equal}"))
    # 10 s when each name was counted from the first copy on.
    assert time.process_time() - began < 2
    assert [*found["PNG"].items()][:3] == [
        ("Comment", "0"),
        ("Copy1:Comment", "1"),
        ("Copy2:Comment", "2"),
    ]
    assert len(found["PNG"]) == len(found["XMP-dc"]) == count


def test_a_copy_that_is_alone_in_its_group_has_the_plain_name() -> None:
    found = cleaned('"IFD0:XResolution": 300, "IFD1:Copy1:XResolution": 72')
    assert found == {"IFD0": {"XResolution": 300}, "IFD1": {"XResolution": 72}}


def test_control_characters_are_dropped_and_surrogates_replaced() -> None:
    found = cleaned(r'"PNG:A": "a\u0000b\tc\nd\u001b[31m\u0085", "PNG:B": "x\ud800y"')
    assert found["PNG"] == {"A": "ab\tc\nd[31m", "B": "x\ufffdy"}


def test_binary_data_is_its_size() -> None:
    text = "(Binary data 1234 bytes, use -b option to extract)"
    assert cleaned(f'"IFD1:ThumbnailImage": "{text}"')["IFD1"] == {
        "ThumbnailImage": {"binary": 1234}
    }
    assert cleaned(f'"PNG:Comment": "see {text}"')["PNG"] == {"Comment": f"see {text}"}
    assert Cleaner().clean({"prompt": text}, "ai_generation") == {"prompt": text}


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 5000, "\u0667", ""])
def test_a_size_that_json_cannot_hold_is_text(digits: str) -> None:
    text = f"(Binary data {digits} bytes)"
    assert cleaned(f'"PNG:Comment": "{text}"')["PNG"] == {"Comment": text}


def test_a_long_string_is_cut_and_its_path_listed() -> None:
    cleaner = Cleaner()
    found = cleaner.clean({"PNG": {"Comment": "é" * MAX_STRING_BYTES}}, "groups")
    assert len(found["PNG"]["Comment"].encode()) <= MAX_STRING_BYTES
    assert found["PNG"]["Comment"].endswith("é…")
    assert cleaner.truncated == ["groups.PNG.Comment"]


def test_the_largest_tags_are_left_out_of_an_output_that_is_too_large() -> None:
    cleaner = Cleaner()
    groups: Any = {"PNG": {"Large": "x" * 5000, "Small": "y"}, "XMP-dc": {"Title": "z" * 900}}
    cleaner.fit(groups, max_bytes=1000)
    assert groups == {"PNG": {"Small": "y"}, "XMP-dc": {"Title": "z" * 900}}
    assert cleaner.truncated == ["groups.PNG.Large"]


def test_a_group_that_is_left_out_is_listed_once_and_gone() -> None:
    cleaner = Cleaner()
    groups: Any = {
        "XMP-a": {f"Tag{index}": "x" * 90 for index in range(100)},
        "XMP-b": {"Title": "z" * 500},
        "IFD0": {"Make": "Canon"},
    }
    cleaner.fit(groups, max_bytes=100)
    assert groups == {"IFD0": {"Make": "Canon"}}
    assert cleaner.truncated == ["groups.XMP-b", "groups.XMP-a"]


@pytest.mark.parametrize("name", ["x", "\u20ac" * 300, '"' * 300])
def test_the_limit_holds_for_names_of_any_length(name: str) -> None:
    groups: Any = {
        f"{name}{group}": {f"{name}{index}": index for index in range(50)} for group in range(50)
    }
    Cleaner().fit(groups, max_bytes=20_000)
    assert groups
    assert json_bytes(groups) <= 20_000


def test_the_list_of_what_is_cut_is_bounded() -> None:
    cleaner = Cleaner()
    deep: Any = {f"\u20ac{index}" * 100: "x" * 70_000 for index in range(400)}
    for _ in range(20):
        deep = {"n" * 900: deep}
    cleaner.clean(deep, "groups")
    assert len(cleaner.truncated) == 250
    assert max(map(len, cleaner.truncated)) == 200


def test_deep_nesting_is_cut() -> None:
    deep: Any = "bottom"
    for _ in range(200):
        deep = [deep]
    cleaner = Cleaner()
    assert "bottom" not in json.dumps(cleaner.clean(deep, "x"))
    assert cleaner.truncated


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'[{"SourceFile": "x"}]',
        b'[{"A:B": 1}, {"A:B": 2}]',
        b'["x"]',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_not_about_one_file_is_refused(output: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(output)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (NumberText("2.80"), 2.8),
        ("1/2", None),
        (True, None),
        (NumberText("1e400"), None),
        ("nan", None),
        (3.0, 3),
        (None, None),
    ],
)
def test_what_is_no_finite_number_is_none(value: object, number: object) -> None:
    assert number_of(value) == number
