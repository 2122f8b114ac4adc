"""The formats table: names of the documents, detection by first bytes, support levels."""

from __future__ import annotations

import gzip
import struct

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
    declared_media_type,
    detect,
    extension_matches,
    level_of,
    media_type_matches,
)
from tests.support.golden import golden


def bmp(header: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<IiiHH", header, 30, 20, 1, 24) + bytes(40)


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
        (b"\0\0\1\0\1\0" + b"\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 99, 22), "ico"),
        *((bmp(size), "bmp") for size in (12, 16, 40, 52, 56, 64, 108, 124)),
        (gzip.compress(b"<svg/>"), "svg"),
        ("<?xml version='1.0' encoding='UTF-16'?><svg/>".encode("utf-16"), "svg"),
        (b"GIF89a\1\0\1\0\0\0\0".ljust(60, b"!"), "gif"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"),
    ],
)
def test_the_first_bytes_determine_the_format(head: bytes, name: str) -> None:
    assert detect(head) == name


INNOCENT = {
    "nothing": b"",
    "a text": b"hello, this is text",
    "a PDF": b"%PDF-1.7",
    "an archive": b"PK\x03\x04",
    "a text about BMW": b"BMW is a car maker from Munich. " * 20,
    "a text about BMW in German": "BMW für München und Österreich: ".encode() * 20,
    "a text about BMW in Latin-1": "BMW für München und Österreich: ".encode("latin-1") * 20,
    "a bitmap without a header": b"BM" + bytes(100),
    "a text about GIF": b"GIF89a is the second version of the format. " * 20,
    "a text about GIF in German": "GIF89a heißt die zweite Fassung des Formats. ".encode() * 20,
    "a text about GIF in Latin-1": "GIF89a heißt die zweite Fassung".encode("latin-1") * 20,
    "a text about ORF": b"IIRO is how files of Olympus begin, and so does this line. ",
    "a text about X3F": b"FOVb is how files of Sigma begin, and so does this line. ",
    "a text about WebP": b"RIFF1234WEBPVP8 is how these files begin, and so is this. ",
    "a text about HEIC": b"this ftypheic is not in a box, but in the line of a text. ",
    "a text about PNM": b"P6 is a plant of the garden centre. " * 20,
    "a PNM": b"P6 1 1 255 abc",
    "a PCX": b"\x0a\x05\x01\x08" + bytes(124),
    "a TGA": bytes([0, 0, 2]) + bytes(40),
    "MPEG audio": b"\xff\xfb\x90\x64" + bytes(100),
    "AAC audio": b"\xff\xf1\x50\x80" + bytes(100),
    "a part of a JPEG marker": b"\xff\xd8\xff\0" + bytes(100),
    "zeros": bytes(200),
    "an icon of zeros": b"\0\0\1\0" + bytes(100),
    "a cursor": b"\0\0\2\0\1\0" + b"\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 99, 22),
    "MPEG video": b"\0\0\1\xba" + bytes(100),
    "a TrueType font": b"\0\1\0\0\0\x0f\0\x80" + bytes(100),
    "a video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    "a sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "a page with a drawing": b"<html><svg></svg></html>",
}


@pytest.mark.parametrize("head", INNOCENT.values(), ids=INNOCENT)
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
        ("svg", "drawing.svgz", True),
        ("jpeg", "photo.jfif", True),
        ("heif", "photo.hif", True),
        # Without exiftool all formats based on TIFF are TIFF.
        ("tiff", "photo.nef", True),
        ("nef", "photo.tiff", False),
    ],
)
def test_an_extension_is_compared_with_the_content(
    *, name: str, file_name: str, matches: bool | None
) -> None:
    assert extension_matches(name, file_name) is matches


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        *((row.name, one) for row in FORMATS.values() for one in row.media_types),
        *(("jpeg", f"image/{one}") for one in ("jpg", "pjpeg", "jfif", "x-jpeg")),
        *(("bmp", f"image/{one}") for one in ("x-ms-bmp", "x-bmp", "x-windows-bmp", "dib")),
        ("png", "image/x-png"),
        ("png", "image/apng"),
        ("heic", "image/heif"),
        ("heic", "image/heic-sequence"),
        ("heif", "image/heic"),
        ("ico", "image/ico"),
        ("svg", "text/xml"),
        ("svg", "application/gzip"),
        ("psd", "image/psd"),
        ("tiff", "image/tif"),
        *((one, "image/tiff") for one in ("dng", "nef", "arw", "cr2")),
        ("dng", "image/dng"),
        ("raf", "image/x-dcraw"),
        ("tiff", "image/x-nikon-nef"),
        ("jpeg", ""),
    ],
)
def test_the_media_types_of_a_format_match_it(name: str, media_type: str) -> None:
    assert media_type_matches(name, media_type)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("jpeg", "image/png"),
        ("png", "image/jpeg"),
        ("avif", "image/heic"),
        ("jpeg", "text/plain"),
        ("nef", "image/x-canon-cr2"),
        ("svg", "text/html"),
    ],
)
def test_the_media_type_of_another_format_does_not_match(name: str, media_type: str) -> None:
    assert not media_type_matches(name, media_type)


@pytest.mark.parametrize(
    ("header", "file_name", "declared"),
    [
        ("image/png", "a.jpg", "image/png"),
        ("Image/PNG; charset=binary", "a.jpg", "image/png"),
        ("image/png", "photo", "image/png"),
        # It says what the extension says.
        ("image/jpeg", "a.jpg", ""),
        ("image/jpg", "a.JPEG", ""),
        ("image/heif", "a.heic", ""),
        ("image/tiff", "a.nef", ""),
        ("", "a.jpg", ""),
        ("application/octet-stream", "a.jpg", ""),
        ("binary/octet-stream", "a.jpg", ""),
        ("*/*", "a.jpg", ""),
        ("no type", "a.jpg", ""),
        ("image/" + "x" * 200, "a.jpg", ""),
        ("image/png\n<b>", "a.jpg", ""),
        ("text/plain", "a.jpg", "text/plain"),
    ],
)
def test_a_media_type_counts_if_it_says_more_than_the_extension(
    header: str, file_name: str, declared: str
) -> None:
    assert declared_media_type(header, file_name) == declared
