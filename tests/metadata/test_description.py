"""The metadata object from tags and walk."""

from __future__ import annotations

import time
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest

from proxy.metadata import description
from proxy.metadata.container.result import Block, BlockKind, Extent, ImageFacts, TextEntry, Walk
from proxy.metadata.container.walk import walk
from tests.metadata.files import jpeg

EMPTY = Walk("jpeg", 1000, ImageFacts(), (), (), (), (), (), (), (), damaged=False)


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
        ({}, None),
    ],
)
def test_the_time_is_iso_8601(tags: dict[str, str], expected: str | None) -> None:
    assert description.exif_of(EMPTY, {"ExifIFD": dict(tags)})["taken_at"] == expected


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
    assert description.exif_of(EMPTY, {"IFD0": tags})["camera"] == camera


def test_without_tags_every_field_is_none() -> None:
    assert set(description.exif_of(EMPTY, {}).values()) == {None}
    assert description.gps_of({}) is None
    assert set(description.image_of(EMPTY, {}, "jpeg").values()) == {None}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"IFD0": {"XResolution": 300, "YResolution": 300, "ResolutionUnit": 2}}, (300, "inch")),
        ({"IFD0": {"XResolution": 118, "YResolution": 118, "ResolutionUnit": 3}}, (118, "cm")),
        ({"JFIF": {"XResolution": 72, "YResolution": 72, "ResolutionUnit": 1}}, (72, "inch")),
        (
            {"PNG-pHYs": {"PixelsPerUnitX": 3937, "PixelsPerUnitY": 3937, "PixelUnits": 1}},
            (100.0, "inch"),
        ),
    ],
)
def test_the_density_has_its_unit(groups: Any, expected: tuple[float, str]) -> None:
    density = description.image_of(EMPTY, groups, "jpeg")["density"]
    assert (density["x"], density["unit"]) == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"ICC_Profile": {"ProfileDescription": "Display P3"}}, "Display P3"),
        ({"ExifIFD": {"ColorSpace": 1}}, "sRGB"),
        ({"ExifIFD": {"ColorSpace": 65535}}, "Uncalibrated"),
        ({"PNG": {"SRGBRendering": 0}}, "sRGB"),
    ],
)
def test_the_colour_space_is_named(groups: Any, expected: str) -> None:
    assert description.image_of(EMPTY, groups, "jpeg")["color_space"] == expected


def test_a_raw_file_has_the_size_that_exiftool_computes() -> None:
    thumbnail = replace(EMPTY, format="tiff", image=ImageFacts(width=160, height=120))
    groups: Any = {"File": {"FileType": "NEF"}, "Composite": {"ImageSize": "6000 4000"}}
    assert description.image_format(thumbnail, groups) == "nef"
    image = description.image_of(thumbnail, groups, "nef")
    assert (image["width"], image["height"]) == (6000, 4000)


def test_our_temporary_file_is_not_described() -> None:
    groups: Any = {"System": {"FileName": "0f.jpg"}, "ExifTool": {"Warning": "x"}, "IFD0": {"A": 1}}
    assert description.visible(groups) == {"IFD0": {"A": 1}}
    assert description.field_count(groups) == 1


def test_texts_of_the_walk_replace_converted_values() -> None:
    walked = replace(
        EMPTY,
        texts=(TextEntry("Flag", "PNG tEXt", "True"), TextEntry("Flag", "PNG tEXt", "true")),
        exif=(TextEntry("UserComment", "ExifIFD", "right"), TextEntry("Gone", "IFD0", "x")),
        xmp=(TextEntry("xmp:Rating", "XMP-xmp", "True"),),
    )
    groups: Any = {
        "PNG": {"Flag": True, "Copy1:Flag": True, "Other": 7},
        "XMP-xmp": {"Rating": True, "Label": ["a", "b"]},
        "ExifIFD": {"UserComment": "wrong", "ISO": 100},
    }
    found = description.with_exact_texts(groups, walked)
    assert found["PNG"] == {"Flag": "True", "Copy1:Flag": "true", "Other": 7}
    assert found["XMP-xmp"] == {"Rating": "True", "Label": ["a", "b"]}
    assert found["ExifIFD"] == {"UserComment": "right", "ISO": 100}
    assert "IFD0" not in found


def test_a_text_that_exiftool_has_decoded_wrongly_or_made_a_number_is_the_one_of_the_walk() -> None:
    walked = replace(
        EMPTY,
        texts=(TextEntry("Comment", "JPEG COM", "True"),),
        exif=(TextEntry("Artist", "IFD0", "true"), TextEntry("Software", "IFD0", "007")),
        iptc=(
            TextEntry("CopyrightNotice", "IPTC", "© Corbis"),
            TextEntry("Keywords", "IPTC", "Zürich"),
            TextEntry("Keywords", "IPTC", "False"),
            TextEntry("City", "IPTC", "Bern"),
        ),
    )
    groups: Any = {
        "File": {"Comment": True, "ImageWidth": 3},
        "IFD0": {"Artist": True, "Software": "007", "Make": "Canon"},
        "IPTC": {
            "CopyrightNotice": "Â© Corbis",
            "Keywords": ["ZÃ¼rich", False],
            "City": "Bern   ",
            "Urgency": 5,
        },
    }
    found = description.with_exact_texts(groups, walked)
    assert found["File"] == {"Comment": "True", "ImageWidth": 3}
    assert found["IFD0"] == {"Artist": "true", "Software": "007", "Make": "Canon"}
    assert found["IPTC"] == {
        "CopyrightNotice": "© Corbis",
        "Keywords": ["Zürich", "False"],
        "City": "Bern   ",
        "Urgency": 5,
    }


def test_ten_thousand_texts_of_one_name_are_matched_in_order() -> None:
    count = 30_000
    texts = tuple(TextEntry("k", "PNG tEXt", f"é{number % 7}") for number in range(count))
    tags = {f"Copy{number}:K": f"Ã©{number % 7}" for number in range(count)}
    started = time.process_time()
    found = description.with_exact_texts({"PNG": dict(tags)}, replace(EMPTY, texts=texts))["PNG"]
    assert time.process_time() - started < 20
    assert found == {key: value.replace("Ã©", "é") for key, value in tags.items()}


def test_texts_of_thousands_of_groups_are_matched_within_seconds() -> None:
    count = 20_000
    walked = replace(
        EMPTY,
        exif=tuple(TextEntry("Software", f"IFD{number}", "True") for number in range(count)),
        xmp=tuple(TextEntry(f"n{number}:a", f"XMP-n{number}", "True") for number in range(count)),
    )
    groups: Any = {f"IFD{number}": {"Software": True} for number in range(count)}
    groups |= {f"XMP-n{number}": {"A": True} for number in range(count)}
    started = time.process_time()
    found = description.with_exact_texts(groups, walked)
    assert time.process_time() - started < 20
    assert found["IFD7"] == {"Software": "True"}
    assert found["XMP-n7"] == {"A": "True"}


def test_two_exif_blocks_keep_their_own_texts() -> None:
    walked = replace(
        EMPTY, exif=(TextEntry("Artist", "IFD0", "first"), TextEntry("Artist", "IFD0", "second"))
    )
    groups: Any = {"IFD0": {"Artist": "first", "Copy1:Artist": "second"}}
    assert description.with_exact_texts(groups, walked)["IFD0"] == groups["IFD0"]


def test_blocks_without_a_tag_are_missing_from_the_completeness() -> None:
    blocks = (
        Block(BlockKind.EXIF, "JPEG APP1", b"", (Extent(0, 300),)),
        Block(BlockKind.XMP, "JPEG APP1", b"", (Extent(300, 100),)),
    )
    walked = replace(EMPTY, blocks=blocks, ranges=(Extent(0, 400),))
    read: Any = {"IFD0": {"Make": "x"}}
    assert description.completeness(walked, read, has_credentials=False) == 0.75
    assert description.completeness(walked, {**read, "XMP-dc": {}}, has_credentials=False) == 1
    assert description.completeness(EMPTY, {}, has_credentials=False) is None


def test_a_segment_of_a_vendor_counts_as_read_only_with_a_tag_of_it() -> None:
    other = (
        Block(BlockKind.OTHER, "JPEG APP0", b"", (Extent(0, 100),)),
        Block(BlockKind.OTHER, "JPEG APP5", b"", (Extent(100, 300),)),
        Block(BlockKind.OTHER, "JPEG APP10", b"", (Extent(400, 600),)),
    )
    walked = replace(EMPTY, other=other, ranges=(Extent(0, 1000),))
    assert description.completeness(walked, {"JFIF": {}}, has_credentials=False) == 0.1
    read: Any = {"JFIF": {}, "Ricoh": {}}
    assert description.completeness(walked, read, has_credentials=False) == 0.4


def test_a_segment_that_nobody_reads_lowers_the_completeness_of_a_real_file() -> None:
    content = jpeg()
    unknown = b"\xff\xea" + (1002).to_bytes(2, "big") + b"vendor of tomorrow".ljust(1000)
    groups: Any = {"JFIF": {}, "IFD0": {}}
    plain = walk(BytesIO(content))
    found = walk(BytesIO(content[:2] + unknown + content[2:]))
    assert description.completeness(plain, groups, has_credentials=False) == 1
    share = 1 - 1000 / found.metadata_bytes
    assert description.completeness(found, groups, has_credentials=False) == pytest.approx(
        share, abs=1e-4
    )


def test_a_disagreement_on_size_or_orientation_is_found() -> None:
    walked = replace(EMPTY, image=ImageFacts(width=10, height=20, orientation=6))
    same: Any = {"File": {"ImageWidth": 10, "ImageHeight": 20}, "IFD0": {"Orientation": 6}}
    other: Any = {"File": {"ImageWidth": 11, "ImageHeight": 20}, "IFD0": {"Orientation": 1}}
    assert list(description.disagreements(walked, same, "jpeg")) == []
    assert list(description.disagreements(walked, other, "jpeg")) == ["size", "orientation"]


def test_warnings_of_walk_and_engine_are_listed_once() -> None:
    walked = replace(EMPTY, warnings=("truncated",))
    groups: Any = {
        "ExifTool": {"Warning": "[minor] odd", "Copy1:Warning": "truncated", "Error": "bad"},
        "ExifTool2": {"Copy2:Warning": "of a second block"},
    }
    warnings, errors = description.warnings_of(walked, groups)
    assert (warnings, errors) == (["truncated", "[minor] odd", "of a second block"], ["bad"])
    assert [description.is_minor(one) for one in warnings] == [False, True, False]
    assert description.visible(groups) == {}
    assert description.field_count(groups) == 0


def test_the_walk_of_a_real_file_is_complete_without_tags_of_exiftool() -> None:
    walked = walk(BytesIO(jpeg(comment=b"hello")))
    (comment,) = description.texts_of(walked)
    assert (comment["text"], comment["language"]) == ("hello", None)
