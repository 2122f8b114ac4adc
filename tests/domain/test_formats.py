"""Formats: the table, and detection of types by first bytes."""

from __future__ import annotations

import gzip
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.formats import NAMES, SNIFF_BYTES, SOURCE_MEDIA_TYPES, TRAITS, Format, sniff
from proxy.domain.variant import EncoderProfile
from tests.support.photos import NAMES as PHOTO_NAMES
from tests.support.photos import photo

BY_SUFFIX = {"jpg": "jpeg", "tiff": "tiff", "svg": "svg"}
SNIFFED = {*SOURCE_MEDIA_TYPES}


def ftyp(major: bytes, *compatible: bytes, size: int | None = None) -> bytes:
    """Return the first box of an ISO base media file."""
    brands = b"".join(compatible)
    length = 16 + len(brands) if size is None else size
    return struct.pack(">I", length) + b"ftyp" + major + bytes(4) + brands


HEADS = {
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR",
    "gif": b"GIF89a\x01\x00\x01\x00",
    "webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
    "tiff": b"II*\x00\x08\x00\x00\x00",
    "bmp": b"BM" + bytes(24) + b"\x01\x00",
    "ico": b"\0\0\1\0\1\0" + b"\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 99, 22),
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "jxl": b"\0\0\0\x0cJXL \r\n\x87\n",
    "avif": ftyp(b"avif", b"mif1", b"miaf"),
    "heic": ftyp(b"heic", b"mif1"),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


def test_every_format_has_traits() -> None:
    assert set(TRAITS) == set(Format)


def test_media_types_and_suffixes_are_all_different() -> None:
    assert len({traits.media_type for traits in TRAITS.values()}) == len(Format)
    assert len({traits.suffix for traits in TRAITS.values()}) == len(Format)


def test_every_format_can_be_requested_by_name() -> None:
    assert set(NAMES.values()) == set(Format)
    assert NAMES["jpg"] is NAMES["jpeg"] is Format.JPEG


def test_only_jpeg_has_no_transparency() -> None:
    assert [fmt for fmt in Format if not TRAITS[fmt].alpha] == [Format.JPEG]


def test_a_profile_has_a_canonical_text() -> None:
    profile = EncoderProfile(Format.AVIF, (("Q", 63), ("effort", 1), ("lossless", False)))
    assert profile.text == "avif:Q=63,effort=1,lossless=False"


@pytest.mark.parametrize("name", PHOTO_NAMES)
def test_the_type_of_a_real_image_is_detected(name: str) -> None:
    suffix = name.rpartition(".")[2]
    with photo(name).open("rb") as file:
        head = file.read(SNIFF_BYTES)
    assert sniff(head) == BY_SUFFIX.get(suffix, suffix)


@pytest.mark.parametrize("kind", HEADS)
def test_every_type_is_detected_by_its_first_bytes(kind: str) -> None:
    assert sniff(HEADS[kind].ljust(SNIFF_BYTES, b"\0")) == kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"GIF87a", "gif"),
        (b"MM\x00*", "tiff"),
        (b"II+\x00\x08\x00", "tiff"),
        (b"MM\x00+\x00\x08", "tiff"),
        (b"\xff\xd8\xff\xdb", "jpeg"),
        (b"\xff\xd8\xff\xe1", "jpeg"),
        (b"\xff\x4f\xff\x51\x00\x2f", "jp2"),
        (b"\xff\x0a\xfa\x7f", "jxl"),
        (ftyp(b"avis", b"avif"), "avif"),
        (ftyp(b"heix"), "heic"),
        (ftyp(b"hevc", b"mif1"), "heic"),
        (ftyp(b"mif1", b"mif1", b"avif"), "avif"),
        (ftyp(b"mif1", b"heic", b"mif1"), "heic"),
        (ftyp(b"msf1", b"iso8", b"avis"), "avif"),
        (ftyp(b"miaf", b"MA1B", b"avif"), "avif"),
        (b"\xef\xbb\xbf\n <?xml version='1.0'?><!-- x --><SVG/>", "svg"),
        (b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' ''><svg>", "svg"),
        (b"<!-- Generator: a drawing program --><svg>", "svg"),
        (b"<!-- " + b"a licence " * 300 + b"-->\n<svg>", "svg"),
        (b"<!DOCTYPE svg [" + b"<!ENTITY a 'b'>" * 300, "svg"),
        (b"<svg:svg xmlns:svg='http://www.w3.org/2000/svg'/>", "svg"),
        ("<?xml version='1.0' encoding='UTF-16'?><svg/>".encode("utf-16"), "svg"),
        ("<svg/>".encode("utf-16-be"), "svg"),
        (gzip.compress(b"<svg/>", mtime=0), "svg"),
    ],
)
def test_variants_of_a_type_are_detected(head: bytes, kind: str) -> None:
    assert sniff(head) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"%PDF-1.7\n",
        b"MATLAB 5.0 MAT-file",
        b"\x76\x2f\x31\x01",
        b"SIMPLE  =",
        b"P6 1 1 255 abc",
        b"#?RADIANCE\n",
        b"\0\0\2\0\1\0" + b"\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 99, 22),
        b"\0\0\1\0\0\0" + bytes(40),
        b"\0\0\1\0\2\0" + b"\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 99, 22),
        b"\0\0\1\xba" + bytes(40),
        b"8BPS\x00\x01",
        b"<html><svg></svg></html>",
        b"<!DOCTYPE html><svg></svg>",
        b"<!-- <svg> --><p>",
        b"<svgfont/>",
        b"<?xml version='1.0'?><rss/>",
        b"just text about <svg",
        b"#!/bin/sh\n",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"RIFF\x24\x00\x00\x00AVI LIST",
        b"BM",
        b"BM is the name of a text",
        ftyp(b"isom", b"iso2", b"avc1", b"mp41"),
        ftyp(b"qt  "),
        ftyp(b"mp42", b"avif"),
        ftyp(b"mif1", b"mif1", b"jpeg"),
        ftyp(b"crx "),
        ftyp(b"mif1", b"avif", size=16),
        ftyp(b"mif1", b"avif", size=0),
    ],
)
def test_other_content_has_no_type(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("tail", [HEADS["png"], b"<script>alert(1)</script>", b"%PDF-1.7", b"PK"])
def test_the_first_bytes_determine_the_type_of_a_polyglot(kind: str, tail: bytes) -> None:
    assert sniff(HEADS[kind] + tail) == kind


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("lead", [b" ", b"\0", b"GIF", b"\xff"])
def test_a_signature_that_is_not_at_the_start_is_ignored(kind: str, lead: bytes) -> None:
    if (kind, lead) != ("svg", b" "):
        assert sniff(lead + HEADS[kind]) is None


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != "svg"])
def test_a_part_of_a_signature_is_not_enough(kind: str) -> None:
    short = {
        "jpeg": 3,
        "png": 8,
        "gif": 6,
        "webp": 12,
        "tiff": 4,
        "bmp": 27,
        "ico": 22,
        "jp2": 12,
        "jxl": 12,
        "avif": 12,
        "heic": 12,
    }
    assert sniff(HEADS[kind][: short[kind]]) == kind
    for length in range(short[kind]):
        assert sniff(HEADS[kind][:length]) is None


def test_brands_are_read_only_within_the_head() -> None:
    head = ftyp(b"mif1", *[b"mif1"] * 2000, b"avif")
    assert sniff(head[:SNIFF_BYTES]) is None
    assert sniff(head) == "avif"


def test_every_format_that_is_sent_is_also_accepted() -> None:
    assert {traits.media_type for traits in TRAITS.values()} < set(SOURCE_MEDIA_TYPES.values())


@given(
    st.binary(max_size=SNIFF_BYTES)
    | st.builds(bytes.__add__, st.sampled_from(list(HEADS.values())), st.binary(max_size=64))
    | st.builds(lambda size, rest: size + b"ftyp" + rest, st.binary(max_size=4), st.binary())
)
@example(b"\x00\x00\x00\x01ftypavif")
@example(b"\xff\xff\xff\xffftypmif1\x00\x00\x00\x00avi")
def test_any_bytes_have_a_known_type_or_none(head: bytes) -> None:
    assert sniff(head) in {*SNIFFED, None}
