"""The dates of a file in order."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata.forensics.timeline import moments


def entries(groups: Any, signed_at: object = None) -> list[tuple[str, str]]:
    return [(one.when, one.field) for one in moments(groups, signed_at)]


def test_dates_of_all_groups_are_in_order() -> None:
    groups = {
        "IFD0": {"ModifyDate": "2024:05:03 08:00:00"},
        "ExifIFD": {
            "DateTimeOriginal": "2024:05:01 10:11:12",
            "SubSecTimeOriginal": "50",
            "OffsetTimeOriginal": "+02:00",
        },
        "XMP-xmpMM": {"History": [{"When": "2024:05:02 09:00:00Z", "Action": "saved"}]},
        "PNG": {"Datecreate": "2024-05-04T00:00:00+00:00"},
        "IPTC": {"DateCreated": "2024:04:30"},
        "GPS": {"GPSDateStamp": "2024:05:01"},
        "Composite": {
            "GPSDateTime": "2024:05:01 08:11:10Z",
            "SubSecDateTimeOriginal": "2024:05:01 10:11:12.50+02:00",
        },
    }
    assert entries(groups, "2024-05-05T00:00:00Z") == [
        ("2024-04-30", "IPTC:DateCreated"),
        ("2024-05-01T08:11:10Z", "Composite:GPSDateTime"),
        ("2024-05-01T10:11:12.50+02:00", "ExifIFD:DateTimeOriginal"),
        ("2024-05-02T09:00:00Z", "XMP-xmpMM:History[0].When"),
        ("2024-05-03T08:00:00", "IFD0:ModifyDate"),
        ("2024-05-04T00:00:00+00:00", "PNG:Datecreate"),
        ("2024-05-05T00:00:00Z", "c2pa:signed_at"),
    ]


def test_the_value_is_as_it_is_written() -> None:
    (moment,) = moments({"IFD0": {"ModifyDate": "2024:05:03 08:00:00"}})
    assert moment.to_dict() == {
        "when": "2024-05-03T08:00:00",
        "field": "IFD0:ModifyDate",
        "value": "2024:05:03 08:00:00",
    }


@pytest.mark.parametrize(
    "value",
    [
        *("0000:00:00 00:00:00", "9999:99:99 00:00:00", "2024:02:30 00:00:00", "    :  :     :  :"),
        *("2024:05:01 25:00:00", "2024:05:01 10:11:12+99:99", "0001:01:01 00:00:00+14:00"),
        *("\u0662\u0660\u0662\u0664:05:01 10:11:12", "2024:05:01 10:11:12+\u0660\u0661:00"),
        *("", "yesterday", 20240501, None, True, "2024:05:01 10:11:12 and more"),
    ],
)
def test_what_is_no_date_is_left_out(value: object) -> None:
    assert entries({"IFD0": {"ModifyDate": value}}) == []


def test_a_date_in_another_kind_of_tag_is_left_out() -> None:
    assert entries({"MediaJukebox": {"Album": "2013-09-01"}}) == []


@pytest.mark.parametrize(
    "tags",
    [
        {"OffsetTimeDigitized": "   :  "},
        {"OffsetTimeDigitized": "+\u0660\u0661:00"},
        {"SubSecTimeDigitized": "\u0665"},
        {"SubSecTimeDigitized": "\u00b2"},
    ],
)
def test_an_offset_or_a_fraction_that_is_none_is_ignored(tags: dict[str, str]) -> None:
    groups = {"ExifIFD": {"CreateDate": "2024:05:01 10:11:12", **tags}}
    assert entries(groups) == [("2024-05-01T10:11:12", "ExifIFD:CreateDate")]
