"""Camera, exposure, time and position from the tags of an engine."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata import photograph


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"DateTimeOriginal": "2024:05:01 10:11:12"}, "2024-05-01T10:11:12"),
        (
            {
                "DateTimeOriginal": "2024:05:01 10:11:12",
                "OffsetTimeOriginal": "+02:00",
                "SubSecTimeOriginal": "07",
            },
            "2024-05-01T10:11:12.07+02:00",
        ),
        ({"CreateDate": "2024:05:01 10:11:12", "OffsetTimeDigitized": "Z"}, "2024-05-01T10:11:12Z"),
        ({"DateTimeOriginal": "0000:00:00 00:00:00"}, None),
        ({"DateTimeOriginal": "yesterday"}, None),
        ({"DateTimeOriginal": "\u0662\u0660\u0662\u0664:05:01 10:11:12"}, None),
        (
            {
                "DateTimeOriginal": "2024:05:01 10:11:12",
                "OffsetTimeOriginal": "+\u0660\u0662:00",
                "SubSecTimeOriginal": "\u0665",
            },
            "2024-05-01T10:11:12",
        ),
        ({}, None),
    ],
)
def test_the_time_is_iso_8601(tags: dict[str, str], expected: str | None) -> None:
    assert photograph.exif_of({"ExifIFD": dict(tags)}, None)["taken_at"] == expected


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS R5", "Canon EOS R5"),
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("SONY", "DSC-RX1", "SONY DSC-RX1"),
        (None, "X100", "X100"),
        ("Leica", None, "Leica"),
        (None, None, None),
        (" ", " ", None),
    ],
)
def test_the_camera_names_its_make_once(
    make: str | None, model: str | None, camera: str | None
) -> None:
    tags = {key: one for key, one in (("Make", make), ("Model", model)) if one is not None}
    assert photograph.exif_of({"IFD0": tags}, None)["camera"] == camera


XMP_DAY = {"XMP-exif": {"DateTimeOriginal": "2019:05:01 10:00:00.250+02:00"}}
IPTC = {"DateCreated": "2019:05:01", "TimeCreated": "10:11:12+02:00"}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            XMP_DAY | {"XMP-xmp": {"CreateDate": "2024:01:02 03:04:05Z"}},
            "2019-05-01T10:00:00.250+02:00",
        ),
        (
            {"XMP-photoshop": {"DateCreated": "2019:05:01 10:00+02:00"}},
            "2019-05-01T10:00+02:00",
        ),
        ({"XMP-photoshop": {"DateCreated": "2019:05:01"}}, "2019-05-01"),
        ({"XMP-photoshop": {"DateCreated": "1957"}}, "1957"),
        ({"XMP-photoshop": {"DateCreated": "1957-08"}}, "1957-08"),
        ({"IPTC": IPTC}, "2019-05-01T10:11:12+02:00"),
        ({"IPTC": {"DateCreated": "2019:05:01"}}, "2019-05-01"),
        ({"IPTC": {"DateCreated": "2019:05:00"}}, "2019-05"),
        ({"IPTC": {"DateCreated": "2019:00:00"}}, "2019"),
        (
            {"Composite": {"DateTimeCreated": "2019:05:01 10:11:12+02:00"}},
            "2019-05-01T10:11:12+02:00",
        ),
        ({"IFD0": {"DateTimeOriginal": "2019:05:01 10:00:00"}}, "2019-05-01T10:00:00"),
        (
            {
                "IFD0": {"DateTimeOriginal": "2019:05:01 10:00:00", "SubSecTimeOriginal": "5"},
                "ExifIFD": {"OffsetTime": "+01:00"},
            },
            "2019-05-01T10:00:00.5+01:00",
        ),
        (
            {"ExifIFD": {"CreateDate": "2024:05:01 10:00:00"}, "IPTC": IPTC},
            "2019-05-01T10:11:12+02:00",
        ),
        ({"XMP-xmp": {"CreateDate": "2024-01-02T03:04:05Z"}}, "2024-01-02T03:04:05Z"),
        ({"PNG": {"CreationTime": "2024:01:02 03:04:05"}}, "2024-01-02T03:04:05"),
        ({"XMP-exif": {"DateTimeDigitized": "2024:01:02"}}, "2024-01-02"),
    ],
)
def test_the_time_is_found_in_exif_then_in_xmp_and_iptc(groups: Any, expected: str) -> None:
    assert photograph.exif_of(groups, None)["taken_at"] == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        "",
        "20190501",
        "2019:13:01",
        "2019:02:30 10:00:00",
        "2019:00:00 10:00:00",
        "0000:00:00",
        "2019:05:01 25:00:00",
        "12:00:00",
        True,
    ],
)
def test_what_is_no_date_is_unknown(value: Any) -> None:
    assert photograph.iso_date(value) is None


def test_an_offset_without_a_colon_gets_one() -> None:
    assert photograph.iso_date("2019:05:01 10:00:00+0200") == "2019-05-01T10:00:00+02:00"


@pytest.mark.parametrize("group", ["ExifIFD", "IFD0", "XMP-exif"])
def test_the_exposure_is_found_wherever_it_is_written(group: str) -> None:
    tags = {"ExposureTime": 0.01, "FNumber": 2.8, "ISO": [200], "FocalLength": 50}
    found = photograph.exif_of({group: tags}, None)
    fields = ("exposure", "aperture", "iso", "focal_length")
    assert [found[name] for name in fields] == [0.01, 2.8, 200, 50]


def test_the_camera_and_the_program_are_found_in_xmp() -> None:
    groups: Any = {
        "XMP-tiff": {"Make": "Canon", "Model": "EOS R5"},
        "XMP-xmp": {"CreatorTool": "Capture One"},
    }
    found = photograph.exif_of(groups, None)
    assert (found["camera"], found["software"]) == ("Canon EOS R5", "Capture One")


def test_exif_takes_precedence_over_xmp() -> None:
    groups: Any = {"ExifIFD": {"ISO": 100}, "XMP-exif": {"ISO": [800]}}
    assert photograph.exif_of(groups, None)["iso"] == 100


def test_without_tags_every_field_is_none() -> None:
    assert set(photograph.exif_of({}, None).values()) == {None}
    assert photograph.gps_of({}) is None


SOUTH = {"GPSLatitude": -33.5, "GPSLongitude": -70.25}


@pytest.mark.parametrize(
    ("groups", "altitude", "taken_at"),
    [
        ({"Composite": SOUTH | {"GPSAltitude": -12.5}}, -12.5, None),
        ({"Composite": SOUTH, "GPS": {"GPSAltitude": 12}}, 12, None),
        ({"Composite": SOUTH, "GPS": {"GPSAltitude": 12, "GPSAltitudeRef": 1}}, -12, None),
        (
            {"XMP-exif": SOUTH | {"GPSAltitude": 30, "GPSAltitudeRef": 1}},
            -30,
            None,
        ),
        (
            {"XMP-exif": SOUTH | {"GPSDateTime": "2019:05:01 10:00:00Z"}},
            None,
            "2019-05-01T10:00:00Z",
        ),
        ({"Composite": SOUTH, "GPS": {"GPSDateStamp": "2019:05:01"}}, None, "2019-05-01"),
    ],
)
def test_a_position_has_height_and_time(
    *, groups: Any, altitude: float | None, taken_at: str | None
) -> None:
    expected = {"latitude": -33.5, "longitude": -70.25, "altitude": altitude, "taken_at": taken_at}
    assert photograph.gps_of(groups) == expected


def test_both_coordinates_are_of_one_position() -> None:
    groups: Any = {"Composite": {"GPSLatitude": 1}, "XMP-exif": {"GPSLongitude": 2}}
    assert photograph.gps_of(groups) is None
    groups["XMP-exif"]["GPSLatitude"] = 3
    assert photograph.gps_of(groups)["latitude"] == 3  # type: ignore[index]


def test_a_position_without_a_hemisphere_is_recognised() -> None:
    assert photograph.lacks_hemisphere({"GPS": {"GPSLatitude": 33.5}})
    assert not photograph.lacks_hemisphere({"GPS": {"GPSLatitude": 1, "GPSLatitudeRef": "N"}})
    assert not photograph.lacks_hemisphere({})
