"""Quantization tables and the end of a JPEG."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from proxy.metadata.forensics.jpeg import described, quality_of, structure_of
from tests.support.golden import golden


def encoded(quality: int, *, progressive: bool = False, grey: bool = False) -> bytes:
    image = Image.effect_noise((48, 48), 80).convert("L" if grey else "RGB")
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, progressive=progressive)
    return buffer.getvalue()


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 90, 99, 100])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_quality_of_libjpeg_is_exact(quality: int, progressive: bool) -> None:  # noqa: FBT001
    content = encoded(quality, progressive=progressive)
    structure = structure_of(BytesIO(content))
    assert quality_of(structure.tables) == (quality, True)
    assert structure.end == len(content)


def test_a_grey_image_has_one_table() -> None:
    structure = structure_of(BytesIO(encoded(80, grey=True)))
    found = described(structure, progressive=False)
    assert [(one["id"], one["precision"], len(one["values"])) for one in found["tables"]] == [
        (0, 8, 64)
    ]
    assert (found["estimated_quality"], found["libjpeg_tables"]) == (80, True)


def test_tables_are_row_by_row_as_pillow_reads_them() -> None:
    content = encoded(60)
    with Image.open(BytesIO(content)) as image:
        expected = image.quantization  # type: ignore[attr-defined]
    tables = structure_of(BytesIO(content)).tables
    assert {one.number: list(one.values) for one in tables} == expected


@pytest.mark.parametrize("trailer", [b"", b"\xff\xd9", b"\xff\xd8\xff\xe0 second", b"\0" * 5000])
def test_the_end_is_that_of_the_first_image(trailer: bytes) -> None:
    content = encoded(75, progressive=True)
    assert structure_of(BytesIO(content + trailer)).end == len(content)


def test_an_end_inside_of_a_segment_does_not_count() -> None:
    content = encoded(75)
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xd9"
    assert structure_of(BytesIO(content[:2] + comment + content[2:])).end == len(content) + 8


def test_markers_across_pieces_of_reading_are_found() -> None:
    image = Image.effect_noise((2200, 1500), 120)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=98, restart_marker_rows=1)
    assert buffer.tell() > 3 << 20
    assert structure_of(buffer).end == buffer.tell()


@pytest.mark.parametrize("length", [2, 3, 30, 200, 700])
def test_a_truncated_file_has_no_end(length: int) -> None:
    assert structure_of(BytesIO(encoded(75)[:length])).end is None


def test_endless_segments_are_given_up() -> None:
    content = b"\xff\xd8" + b"\xff\xdb\x00\x02" * 500_000 + b"\xff\xd9"
    structure = structure_of(BytesIO(content))
    assert (structure.tables, structure.end) == ((), None)


@pytest.mark.parametrize(
    ("name", "quality", "standard"),
    [
        ("metadata-extractor/Sony D700.jpg", 75, True),
        ("metadata-extractor/Canon IXUS v3.jpg", 90, True),
        ("c2pa/example-assets/Firefly_tabby_cat.jpg", 95, True),
        ("metadata-extractor/Photoshop (3).jpg", 94, False),
        ("metadata-extractor/HP PhotoSmart 735.jpg", 96, False),
    ],
)
def test_cameras_and_editors_get_the_estimate_of_exiftool(
    name: str,
    quality: int,
    standard: bool,  # noqa: FBT001
) -> None:
    with golden(name).open("rb") as file:
        assert quality_of(structure_of(file).tables) == (quality, standard)


def test_without_tables_there_is_no_quality() -> None:
    assert quality_of(()) == (None, None)
