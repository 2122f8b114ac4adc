"""The metadata object from tags and walk."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest

from proxy.metadata import description
from proxy.metadata.container.result import Block, BlockKind, Extent, ImageFacts, Walk
from proxy.metadata.container.walk import walk
from tests.metadata.files import jpeg

EMPTY = Walk("jpeg", 1000, ImageFacts(), (), (), (), (), (), (), (), damaged=False)


def test_without_tags_every_field_is_none() -> None:
    assert set(description.image_of(EMPTY, {}, "jpeg").values()) == {None}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"IFD0": {"XResolution": 300, "YResolution": 300, "ResolutionUnit": 2}}, (300, "inch")),
        ({"IFD0": {"XResolution": 118, "YResolution": 118, "ResolutionUnit": 3}}, (118, "cm")),
        ({"IFD0": {"XResolution": 4, "YResolution": 3, "ResolutionUnit": 1}}, (4, None)),
        ({"IFD0": {"XResolution": 300, "YResolution": 300}}, (300, "inch")),
        ({"JFIF": {"XResolution": 1, "YResolution": 1, "ResolutionUnit": 0}}, (1, None)),
        ({"JFIF": {"XResolution": 1, "YResolution": 1}}, (1, None)),
        ({"JFIF": {"XResolution": 72, "YResolution": 72, "ResolutionUnit": 1}}, (72, "inch")),
        ({"JFIF": {"XResolution": 28, "YResolution": 28, "ResolutionUnit": 2}}, (28, "cm")),
        ({"Photoshop": {"XResolution": 240, "YResolution": 240}}, (240, "inch")),
        (
            {
                "JFIF": {"XResolution": 1, "YResolution": 1, "ResolutionUnit": 0},
                "Photoshop": {"XResolution": 240, "YResolution": 240},
            },
            (240, "inch"),
        ),
        ({"PNG-pHYs": {"PixelsPerUnitX": 2, "PixelsPerUnitY": 1, "PixelUnits": 0}}, (2, None)),
        ({"File": {"PixelsPerMeterX": 3937, "PixelsPerMeterY": 3937}}, (100.0, "inch")),
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
