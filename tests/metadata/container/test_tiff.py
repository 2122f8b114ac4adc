"""TIFF structures: tags that hold text, encodings of UserComment, loops and wrong offsets."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import MetadataTooLarge
from proxy.metadata.container import tiff as module
from proxy.metadata.container.collector import MAX_METADATA_BYTES, Collector
from proxy.metadata.container.result import BlockKind
from proxy.metadata.container.walk import walk
from tests.support.containers import tiff, user_comment, walked
from tests.support.golden import golden

TEXTS = ["photo of a duck", "a 猫 and a dog", "猫猫猫犬犬、漢字のみ", "Кошка", "ünïcödé", "🦆 duck"]


def comment(raw: bytes, order: str = "<") -> str:
    found = walked(tiff({0x0131: "x"}, {0x9286: raw}, order=order)).exif
    return next((entry.text for entry in found if entry.keyword == "UserComment"), "")


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_both_byte_orders_are_read(order: str) -> None:
    walk = walked(
        tiff(
            {0x010F: "Maker", 0x0112: 8, 0x0100: 33, 0x0101: 22},
            {0x9286: b"ASCII\0\0\0hi"},
            order=order,
        )
    )
    assert walk.format == "tiff"
    assert (walk.image.width, walk.image.height, walk.image.orientation) == (33, 22, 8)
    assert [(e.keyword, e.where, e.text) for e in walk.exif] == [
        ("Make", "IFD0", "Maker"),
        ("UserComment", "ExifIFD", "hi"),
    ]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_user_comment_is_read_in_either_byte_order(text: str, encoding: str, order: str) -> None:
    assert comment(user_comment(text, encoding), order) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"ASCII\0\0\0plain text\0\0", "plain text"),
        (b"\0" * 8 + b"undefined", "undefined"),
        (b"UNICODE\0\xff\xfe" + "bom".encode("utf-16-le"), "bom"),
        (b"UNICODE\0not UTF-16 at all", "not UTF-16 at all"),
        (b'{"prompt": "no code"}', '{"prompt": "no code"}'),
        (b"JIS\0\0\0\0\0" + "猫".encode("iso2022_jp"), "猫"),
        (b"ASCII\0\0\0" + "Tür 猫".encode(), "Tür 猫"),
        (b"UNICODE\0\0o\0d\0", "od"),
    ],
)
def test_a_user_comment_of_any_writer_is_read(raw: bytes, text: str) -> None:
    assert comment(raw) == text


def test_windows_tags_are_utf_16() -> None:
    walk = walked(tiff({0x9C9C: "naïve 猫".encode("utf-16-le") + b"\0\0"}))
    assert [(e.keyword, e.text) for e in walk.exif] == [("XPComment", "naïve 猫")]


def test_xmp_in_a_tag_is_a_block() -> None:
    walk = walked(tiff({0x02BC: b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"}))
    assert [block.kind for block in walk.blocks] == [BlockKind.XMP]


def test_a_dng_is_recognised_by_its_version() -> None:
    assert walked(tiff({0xC612: b"\1\4\0\0"})).format == "dng"


@pytest.mark.parametrize("tag", [0xC68C, 0xB4C3, 0x935C, 0x002E, 0x0127])
def test_files_and_pixels_in_tags_are_no_metadata(tag: int) -> None:
    plain = walked(tiff({0x0131: "Tool", tag: b"x", 0xC612: b"\1\4\0\0"}))
    large = bytes(MAX_METADATA_BYTES)
    found = walked(tiff({0x0131: "Tool", tag: large, 0xC612: b"\1\4\0\0"}))
    assert (found.format, found.metadata_bytes) == ("dng", plain.metadata_bytes)


def test_the_pixels_of_phase_one_are_no_metadata() -> None:
    notes = b"IIIITwaR" + bytes(MAX_METADATA_BYTES)
    found = walked(tiff({0x0131: "Tool"}, {0x927C: notes}))
    assert [e.text for e in found.exif] == ["Tool"]
    with pytest.raises(MetadataTooLarge):
        walked(tiff({0x0131: "Tool"}, {0x927C: b"Nikon" + notes}))


def test_directories_and_values_are_the_metadata() -> None:
    content = tiff({0x010E: "twelve bytes"})
    assert walked(content + bytes(1000)).metadata_bytes == len(content)


def test_a_loop_of_directories_ends() -> None:
    content = bytearray(tiff({0x0131: "Tool"}))
    content[8 + 2 + 12 : 8 + 2 + 16] = struct.pack("<I", 8)
    walk = walked(bytes(content))
    assert walk.warnings == ("TIFF: the directories form a loop",)
    assert [e.text for e in walk.exif] == ["Tool"]


def test_nested_directories_end() -> None:
    # Each EXIF directory has an EXIF directory.
    size = 2 + 12 + 4
    nested = b"".join(
        struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8 + size * (n + 1), 0) for n in range(50)
    )
    assert "nested too deeply" in walked(b"II*\0\x08\0\0\0" + nested).warnings[-1]


def test_a_value_outside_of_the_file_is_damage() -> None:
    content = struct.pack("<HIHHHIII", 42, 8, 1, 0x010E, 2, 10**9, 10**9, 0)
    walk = walked(b"II" + content)
    assert walk.damaged
    assert "0x010e in IFD0 is outside" in walk.warnings[0]


def test_values_that_share_their_bytes_are_counted() -> None:
    text = 1_000_000
    count = 1000
    entry = struct.pack("<HHII", 0x010E, 2, text, 8 + 2 + 12 * count + 4)
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entry * count + bytes(4) + b"x" * text
    collector = Collector(BytesIO(exif))
    with pytest.raises(MetadataTooLarge, match="values"):
        module.read_block(collector, exif, "EXIF")


def test_entries_of_directories_that_overlap_are_counted() -> None:
    # Directories of 5,000 entries each, at every second byte.
    entry = struct.pack("<HHII", 1, 4, 1, 0)
    body = b"".join(struct.pack("<H", 5000) for _ in range(8000)) + entry * 5000
    nested = struct.pack("<HHII", 0x014A, 4, 90, 26 + len(body))
    offsets = struct.pack("<90I", *range(26, 26 + 180, 2))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + nested + bytes(4) + body + offsets
    collector = Collector(BytesIO(exif))
    module.read_block(collector, exif, "EXIF")
    assert any("truncated" in text for text in collector.result("tiff").warnings)


def test_a_big_tiff_is_read() -> None:
    text = b"BigTIFF text\0"
    directory = struct.pack("<QHHQQQ", 1, 0x0131, 2, len(text), 52, 0)
    walk = walked(b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + directory + text)
    assert [e.text for e in walk.exif] == ["BigTIFF text"]


@given(noise=st.binary(max_size=200), order=st.sampled_from([b"II*\0", b"MM\0*", b"II+\0"]))
def test_noise_never_fails(noise: bytes, order: bytes) -> None:
    collector = Collector(BytesIO(b""))
    module.read_block(collector, order + noise, "noise")
    assert walk(BytesIO(order + noise)).format in ("tiff", "cr2", "dng")


@given(raw=st.binary(max_size=100), order=st.sampled_from(["little", "big"]))
def test_any_user_comment_is_decoded(raw: bytes, order: str) -> None:
    for code in (b"", b"UNICODE\0", b"ASCII\0\0\0", b"JIS\0\0\0\0\0"):
        decoded = module.decode_user_comment(code + raw, "big" if order == "big" else "little")
        assert isinstance(decoded, str)


def test_the_maker_of_golden_files_is_read() -> None:
    folder = golden("exiftool/images")
    for name, maker in (("Nikon.jpg", "NIKON"), ("Panasonic.rw2", "Panasonic")):
        found = {e.keyword: e.text for e in walked((folder / name).read_bytes()).exif}
        assert found["Make"].startswith(maker)
