"""The formats table: names of the documents, detection by first bytes, support levels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.formats import (
    DETECT_BYTES,
    FORMATS,
    SUPPORTED_IMAGE_EXTENSIONS,
    SUPPORTED_IMAGE_MIMES,
    TIFF_BASED,
    SupportLevel,
    detect,
    extension_matches,
    level_of,
)
from tests.support.golden import golden

NAMED_BY_THE_DOCUMENT = (
    "jpg jpeg png webp heic heif tiff bmp gif ico svg cr2 nef arw dng orf raf pef x3f srw rw2"
)


def test_the_table_has_every_extension_that_the_document_names() -> None:
    named = {f".{name}" for name in NAMED_BY_THE_DOCUMENT.split()}
    assert named <= set(SUPPORTED_IMAGE_EXTENSIONS)
    assert {".avif", ".jxl", ".cr3", ".psd", ".tif"} <= set(SUPPORTED_IMAGE_EXTENSIONS)


def test_extensions_and_media_types_belong_to_one_row_each() -> None:
    assert len(set(SUPPORTED_IMAGE_EXTENSIONS)) == len(SUPPORTED_IMAGE_EXTENSIONS)
    assert len(set(SUPPORTED_IMAGE_MIMES)) == len(SUPPORTED_IMAGE_MIMES)


@pytest.mark.parametrize(
    "media_type",
    [
        "x-canon-cr2",
        "x-nikon-nef",
        "x-sony-arw",
        "x-adobe-dng",
        "x-olympus-orf",
        "x-fuji-raf",
        "x-pentax-pef",
        "x-sigma-x3f",
        "x-samsung-srw",
        "x-panasonic-rw2",
    ],
)
def test_raw_media_types_are_accepted(media_type: str) -> None:
    assert f"image/{media_type}" in SUPPORTED_IMAGE_MIMES


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (
            SupportLevel.COMPREHENSIVE,
            "jpeg png webp tiff heic heif avif dng cr2 nef arw raf rw2",
        ),
        (SupportLevel.STANDARD, "gif svg x3f orf pef srw cr3 jxl psd"),
        (SupportLevel.BASIC, "bmp ico"),
    ],
)
def test_every_format_has_the_level_of_the_specification(level: SupportLevel, names: str) -> None:
    assert {row.name for row in FORMATS.values() if row.level is level} == set(names.split())


def test_an_unknown_format_is_unsupported() -> None:
    assert level_of(None) is SupportLevel.UNSUPPORTED
    assert level_of("docx") is SupportLevel.UNSUPPORTED


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"II*\0\x10\0\0\0CR\x02\0", "cr2"),
        (b"II*\0\x08\0\0\0", "tiff"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "cr3"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0mif1", "heif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "heic"),
        (b"\xff\x0a\xfa\x7f", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "jxl"),
        (b"8BPS\0\x01\0\0", "psd"),
        (b"8BPS\0\x02\0\0", "psd"),
        (b"IIRO\x08\0\0\0", "orf"),
        (b"FUJIFILMCCD-RAW 0201", "raf"),
        (b"FOVb\x03\0\x02\0", "x3f"),
        (b"IIU\0\x18\0\0\0", "rw2"),
        (b"\0\0\x01\0\x01\0\x10\x10", "ico"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"),
    ],
)
def test_the_first_bytes_determine_the_format(head: bytes, name: str) -> None:
    assert detect(head) == name


@pytest.mark.parametrize("head", [b"", b"hello, this is text", b"%PDF-1.7", b"PK\x03\x04"])
def test_other_files_are_not_detected(head: bytes) -> None:
    assert detect(head) is None


@given(head=st.binary(max_size=64))
def test_detection_never_fails(head: bytes) -> None:
    assert detect(head) in {None, *FORMATS}


@pytest.mark.parametrize("folder", ["exiftool/images", "metadata-extractor"])
def test_golden_files_are_detected_as_what_their_extension_says(folder: str) -> None:
    for path in golden(folder).iterdir():
        row = next((r for r in FORMATS.values() if path.suffix[1:].lower() in r.extensions), None)
        if row is None or path.suffix in {".txt", ".out"}:
            continue
        name = detect(path.read_bytes()[:DETECT_BYTES])
        expected = {"tiff"} if row.name in TIFF_BASED else {row.name}
        # metadata-extractor names its HEIC files .heif.
        expected |= {"heic"} if row.name == "heif" else set()
        expected |= {"jpeg"} if path.name == "Issue 247-1.nef" else set()  # really a JPEG
        assert name in expected, path.name


@pytest.mark.parametrize(
    ("name", "file_name", "matches"),
    [
        ("jpeg", "photo.JPG", True),
        ("jpeg", "photo.jpeg", True),
        ("jpeg", "photo.png", False),
        ("heic", "photo.HEIF", True),
        ("tiff", "photo.tif", True),
        ("png", "photo", None),
        ("png", "photo.", None),
    ],
)
def test_an_extension_is_compared_with_the_content(
    *, name: str, file_name: str, matches: bool | None
) -> None:
    assert extension_matches(name, file_name) is matches
