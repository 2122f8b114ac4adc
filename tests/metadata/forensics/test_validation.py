"""exiftool's validation as observations."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata.forensics.validation import MAX_ENTRIES, validation_of


def test_errors_come_before_warnings_and_equal_ones_once() -> None:
    groups: Any = {
        "ExifTool": {"Validate": "1 2 0", "Warning": "w", "Copy1:Warning": "w", "Error": "e"},
        "ExifTool2": {"Copy2:Warning": "of the second block"},
        "IFD0": {"Warning": "a tag of the file"},
    }
    assert [one["what"] for one in validation_of(groups)] == ["e", "w", "of the second block"]
    assert validation_of({}) == []


@pytest.mark.parametrize(
    ("text", "where", "means"),
    [
        ("Missing required JPEG ExifIFD tag 0x9000 ExifVersion", "ExifIFD", "requires this tag"),
        ("[minor] IFD0 tag 0x0100 ImageWidth is not allowed in JPEG", "IFD0", "not provide"),
        ("ExifIFD tag 0xa434 LensModel requires ExifVersion 0230 or higher", "ExifIFD", "newer"),
        ("[minor] Odd offset for IFD0 tag 0x010f Make", "IFD0", "aligned"),
        ("Tag ID 0x0112 Orientation out of sequence in IFD0", "IFD0", "ordered"),
        ("[minor] Possibly incorrect maker notes offsets (fix by -221?)", "file", "rewritten"),
        ("[minor] Suspicious MakerNotes offset for GE_0x0200", "MakerNotes", "rewritten"),
        ("Non-standard format (string) for ExifIFD 0x9000", "ExifIFD", "another form"),
        ("IPTCDigest is not current. XMP may be out of sync", "IPTCDigest", "IPTC data was"),
        ("JPEG EOI marker not found", "file", "missing"),
        ("[minor] Undefined value for GPS:GPSSpeed", "GPS", "standard defines"),
        ("something new", "file", "differs"),
    ],
)
def test_a_warning_has_a_place_a_meaning_and_a_harmless_cause(
    text: str, where: str, means: str
) -> None:
    (found,) = validation_of({"ExifTool": {"Warning": text}})
    assert (found["what"], found["where"]) == (text, where)
    assert means in found["means"]
    assert found["innocent_reasons"]


def test_the_list_is_bounded() -> None:
    warnings = {f"Copy{index}:Warning": f"{index} " + "x" * 9000 for index in range(500)}
    found = validation_of({"ExifTool": warnings})
    assert len(found) == MAX_ENTRIES
    assert len(found[0]["what"]) == 200
