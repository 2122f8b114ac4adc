"""Whether the parts of a file agree."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest

from proxy.metadata.container.walk import walk
from proxy.metadata.forensics.consistency import (
    consistency_of,
    hidden_text,
    thumbnail_differs,
    trailing_data,
)
from proxy.metadata.forensics.timeline import moments
from tests.metadata.files import jpeg

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TAKEN = {"DateTimeOriginal": "2024:05:01 10:11:12"}
WITH_OFFSET = {**TAKEN, "OffsetTimeOriginal": "+02:00"}


def places(groups: Any) -> list[str]:
    file = BytesIO(jpeg(size=(40, 30)))
    found = consistency_of(walk(file), groups, moments(groups), now=NOW)
    for one in found:
        assert set(one) == {"what", "where", "means", "innocent_reasons"}
        assert all(one.values())
        assert "manipulat" not in str(one).lower()
    return [one["where"] for one in found]


def test_a_file_that_agrees_has_no_observations() -> None:
    groups = {
        "IFD0": {"Make": "Canon", "ModifyDate": "2024:05:01 10:11:12"},
        "ExifIFD": {**WITH_OFFSET, "ExifImageWidth": 40, "ExifImageHeight": 30},
        "XMP-photoshop": {"DateCreated": "2024:05:01 10:11:12.5+02:00"},
        "Composite": {
            "GPSDateTime": "2024:05:01 08:11:09Z",
            "DateTimeCreated": "2024:05:01 10:11:12+02:00",
        },
        "Canon": {"CanonModelID": 1},
        "Photoshop": {"IPTCDigest": "ab"},
        "File": {"CurrentIPTCDigest": "ab"},
    }
    assert places(groups) == []


@pytest.mark.parametrize(
    ("taken", "modified", "fields"),
    [
        ("0001:01:01 00:00:00", "0001:01:01 00:00:00", []),
        (
            "9999:12:31 23:59:59",
            "0001:01:01 00:00:00",
            ["IFD0:ModifyDate, ExifIFD:DateTimeOriginal"],
        ),
    ],
)
def test_dates_at_the_ends_of_the_calendar_are_compared(
    taken: str, modified: str, fields: list[str]
) -> None:
    groups = {"IFD0": {"ModifyDate": modified}, "ExifIFD": {"DateTimeOriginal": taken}}
    assert [one for one in places(groups) if "ModifyDate" in one] == fields


def test_digits_of_other_scripts_are_no_dates() -> None:
    arabic = "2024:05:01 10:11:12".translate({ord("0") + one: 0x660 + one for one in range(10)})
    groups = {"ExifIFD": {"DateTimeOriginal": arabic}, "XMP-exif": {"DateTimeOriginal": arabic}}
    assert places(groups) == []


def test_tags_of_other_types_are_no_observations() -> None:
    wrong = {"a": [None, {"b": True}]}
    groups: Any = {
        "IFD0": {"Make": wrong, "ModifyDate": wrong},
        "ExifIFD": {"DateTimeOriginal": wrong, "ExifImageWidth": wrong, "ExifImageHeight": "x"},
        "Composite": {"GPSDateTime": wrong},
        "Photoshop": {"IPTCDigest": ""},
        "XMP-xmpMM": {"History": ["text", {"SoftwareAgent": None}]},
    }
    assert places(groups) == []
    assert places({}) == []


@pytest.mark.parametrize(
    ("groups", "where"),
    [
        (
            {"ExifIFD": TAKEN, "IFD0": {"ModifyDate": "2024:05:01 10:11:02"}},
            "IFD0:ModifyDate, ExifIFD:DateTimeOriginal",
        ),
        (
            {"ExifIFD": TAKEN, "XMP-photoshop": {"DateCreated": "2023:05:01"}},
            "ExifIFD:DateTimeOriginal, XMP-photoshop:DateCreated",
        ),
        (
            {"ExifIFD": {"CreateDate": "2024:05:01 10:11:12"}}
            | {"XMP-xmp": {"CreateDate": "2024:05:01 10:11:30"}},
            "ExifIFD:CreateDate, XMP-xmp:CreateDate",
        ),
        (
            {"ExifIFD": WITH_OFFSET, "Composite": {"GPSDateTime": "2024:05:01 10:11:12Z"}},
            "Composite:GPSDateTime, ExifIFD:DateTimeOriginal",
        ),
        (
            {"ExifIFD": TAKEN, "Composite": {"GPSDateTime": "2024:05:02 10:11:12Z"}},
            "Composite:GPSDateTime, ExifIFD:DateTimeOriginal",
        ),
        ({"ExifIFD": {"CreateDate": "2031:01:01 00:00:00"}}, "ExifIFD:CreateDate"),
        (
            {"ExifIFD": {"ExifImageWidth": 4000, "ExifImageHeight": 3000}},
            "ExifIFD:ExifImageWidth, ExifIFD:ExifImageHeight",
        ),
        ({"IFD0": {"Make": "NIKON CORPORATION"}, "Canon": {"A": 1}}, "IFD0:Make, Canon"),
        (
            {"Photoshop": {"IPTCDigest": "ab"}, "File": {"CurrentIPTCDigest": "cd"}},
            "Photoshop:IPTCDigest",
        ),
        (
            {"IFD0": {"Make": "Canon"}}
            | {"XMP-xmpMM": {"History": [{"SoftwareAgent": "Adobe Photoshop 25.0"}]}},
            "XMP-xmpMM:History",
        ),
    ],
)
def test_what_does_not_agree_is_an_observation(groups: Any, where: str) -> None:
    assert places(groups) == [where]


@pytest.mark.parametrize(
    "groups",
    [
        # A camera without a time zone, anywhere on earth.
        {"ExifIFD": TAKEN, "Composite": {"GPSDateTime": "2024:05:01 22:11:12Z"}},
        # One moment in two zones.
        {"ExifIFD": WITH_OFFSET, "XMP-photoshop": {"DateCreated": "2024:05:01 08:11:12Z"}},
        {"ExifIFD": {"ExifImageWidth": 30, "ExifImageHeight": 40}},
        {"ExifIFD": {"ExifImageWidth": 0, "ExifImageHeight": 0}},
        {"IFD0": {"Make": "LEICA CAMERA AG"}, "Panasonic": {"A": 1}},
        {"IFD0": {"Make": "EASTMAN KODAK COMPANY"}, "Kodak": {"A": 1}},
        {"IFD0": {"Make": "FUJI PHOTO FILM CO., LTD."}, "FujiFilm": {"A": 1}},
        {"Photoshop": {"IPTCDigest": "0" * 32}, "File": {"CurrentIPTCDigest": "cd"}},
        {"XMP-xmpMM": {"History": [{"SoftwareAgent": "Adobe Illustrator"}]}},
    ],
)
def test_what_is_usual_is_no_observation(groups: Any) -> None:
    assert places(groups) == []


def test_a_thumbnail_is_reported_only_if_it_differs() -> None:
    assert list(thumbnail_differs(None)) == list(thumbnail_differs(0.1)) == []
    (found,) = thumbnail_differs(0.5)
    assert found["where"] == "IFD1"


@pytest.mark.parametrize(
    ("beginning", "text"),
    [
        (b"\xff\xd8\xff\xe1", "JPEG"),
        (b"\0\0\0\x18ftypmp42", "video"),
        (b"PK\x03\x04", "ZIP"),
        (b"\0" * 64, "zeros"),
        (b"hello", "unknown kind"),
    ],
)
def test_data_behind_the_image_is_named(beginning: bytes, text: str) -> None:
    (found,) = trailing_data(1234, 5678, beginning)
    assert "1,234 bytes" in found["what"]
    assert text in found["what"]
    assert "5,678" in found["where"]
    assert list(trailing_data(0, 0, b"")) == list(trailing_data(None, 0, b"")) == []


def test_hidden_text_is_counted_and_not_quoted() -> None:
    assert list(hidden_text(None)) == []
    (found,) = hidden_text("a secret prompt")
    assert "15 characters" in found["what"]
    assert "secret" not in str(found)
