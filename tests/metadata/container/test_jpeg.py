"""JPEG segments: EXIF, XMP with its extension, ICC, IPTC, C2PA and comments."""

from __future__ import annotations

import struct
import time
from io import BytesIO

import pytest

from proxy.metadata.container.result import BlockKind
from proxy.metadata.container.walk import walk
from tests.support.containers import PACKET, jpeg, jpeg_with_comment, segment, tiff, walked
from tests.support.golden import golden

XAP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
GUID = b"0123456789ABCDEF0123456789ABCDEF"


def test_size_is_read_from_the_frame_header() -> None:
    image = walked(jpeg()).image
    assert (image.width, image.height, image.channels) == (5, 4, 3)
    assert image.progressive is False
    assert walked(jpeg()).warnings == ()


def test_a_height_that_is_left_open_is_unknown_with_a_warning() -> None:
    found = walked(jpeg().replace(b"\x08\0\x04\0\x05\x03", b"\x08\0\0\0\x05\x03"))
    assert (found.image.width, found.image.height) == (5, None)
    assert len(found.warnings) == 1
    assert "leaves the height open" in found.warnings[0]
    # The size is unknown, the file is not damaged.
    assert not found.damaged


def test_golden_beach_has_a_warning_for_its_unknown_height() -> None:
    content = golden("metadata-extractor/beach.jpg").read_bytes()
    found = walked(content)
    assert (found.image.width, found.image.height) == (200, None)
    assert any("height" in one for one in found.warnings)


def test_a_progressive_frame_is_recognised() -> None:
    assert walked(jpeg().replace(b"\xff\xc0", b"\xff\xc2")).image.progressive is True


def test_comments_are_texts() -> None:
    walk = walked(jpeg(segment(0xFE, b"first\0"), segment(0xFE, "zweites Stück".encode("latin-1"))))
    assert [(t.keyword, t.where, t.text) for t in walk.texts] == [
        ("Comment", "JPEG COM", "first"),
        ("Comment", "JPEG COM", "zweites Stück"),
    ]


def test_exif_of_several_segments_is_joined() -> None:
    exif = tiff({0x010E: "x" * 70_000, 0x0112: 6})
    walk = walked(
        jpeg(*(segment(0xE1, b"Exif\0\0" + part) for part in (exif[:60_000], exif[60_000:])))
    )
    assert walk.exif[0].text == "x" * 70_000
    assert walk.image.orientation == 6
    assert len(walk.blocks[0].ranges) == 2


def extended(offset: int, content: bytes, guid: bytes = GUID) -> bytes:
    return segment(0xE1, EXTENSION + guid + struct.pack(">II", 9999, offset) + content)


def test_extended_xmp_is_joined_in_its_order() -> None:
    main = PACKET.format(
        '<rdf:Description xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
        f' xmpNote:HasExtendedXMP="{GUID.decode()}"/>'
    ).encode()
    more = PACKET.format(
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/x"/>'
    ).encode()
    walk = walked(jpeg(segment(0xE1, XAP + main), extended(50, more[50:]), extended(0, more[:50])))
    assert walk.xmp[-1].keyword == "dc:format"
    assert walk.warnings == ()


def test_incomplete_or_foreign_extended_xmp_is_a_warning() -> None:
    main = PACKET.format(f'<rdf:Description rdf:about="{GUID.decode()}"/>').encode()
    gap = walked(jpeg(segment(0xE1, XAP + main), extended(7, b"tail")))
    assert gap.warnings == ("JPEG: extended XMP is incomplete",)
    foreign = walked(jpeg(extended(0, b"<a/>", b"F" * 32)))
    assert foreign.warnings == ("JPEG: extended XMP belongs to no packet",)


def test_many_segments_take_little_time() -> None:
    packets = [segment(0xE1, XAP + b"0" * 65_000)] * 120
    guids = [extended(0, b"x", b"%032X" % number) for number in range(1000)]
    parts = [segment(0xE1, b"Exif\0\0" + bytes(800)) for _ in range(8000)]
    began = time.process_time()
    walk = walked(jpeg(*packets, *guids, *parts))
    # 11 s when each GUID was searched, and each part joined to those before it.
    assert time.process_time() - began < 3
    assert len(walk.blocks[0].ranges) == 8000
    assert "JPEG: extended XMP belongs to no packet" in walk.warnings


def test_icc_segments_are_joined_by_their_numbers() -> None:
    parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 2]) + c) for n, c in ((2, b"B"), (1, b"A"))]
    block = walked(jpeg(*parts)).block(BlockKind.ICC)
    assert block is not None
    assert block.content == b"AB"


def test_a_manifest_of_several_segments_is_joined() -> None:
    header = struct.pack(">I4s", 99, b"jumb")
    first = segment(0xEB, b"JP\0\1\0\0\0\1" + header + b"....jumdc2pa first ")
    second = segment(0xEB, b"JP\0\1\0\0\0\2" + header + b"second")
    block = walked(jpeg(second, first)).block(BlockKind.C2PA)
    assert block is not None
    assert block.content == header + b"....jumdc2pa first second"


def test_other_boxes_in_app11_are_no_manifest() -> None:
    other = segment(0xEB, b"JP\0\1\0\0\0\1" + struct.pack(">I4s", 99, b"jumb") + b"jumd360 ")
    assert walked(jpeg(other)).block(BlockKind.C2PA) is None


def test_a_file_without_an_end_marker_is_truncated() -> None:
    walk = walked(jpeg(segment(0xFE, b"kept"), end=b""))
    assert [t.text for t in walk.texts] == ["kept"]
    assert walk.damaged
    assert walk.warnings == ("JPEG is truncated: the end-of-image marker is missing",)


def test_the_end_marker_is_found_without_reading_the_image() -> None:
    class Counting(BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.read_bytes += len(content)
            return content

    file = Counting(jpeg(segment(0xFE, b"kept"), end=b"x" * (3 << 20) + b"\xff\xd9"))
    assert not walk(file).damaged
    assert file.read_bytes < 128 * 1024


@pytest.mark.parametrize("extra", [0, 10, 3 << 20])
def test_a_trailer_behind_the_end_marker_is_accepted(extra: int) -> None:
    assert walked(jpeg() + b"x" * extra).warnings == ()


def test_every_truncation_gives_what_was_read() -> None:
    content = jpeg_with_comment("a prompt")
    for length in range(3, len(content) - 1):
        walk = walked(content[:length])
        assert walk.damaged, length
        assert walk.warnings


def test_padding_before_markers_is_skipped() -> None:
    content = jpeg(segment(0xFE, b"text"))
    assert [t.text for t in walked(content[:2] + b"\xff\xff" + content[2:]).texts] == ["text"]


def test_a_segment_of_an_impossible_length_ends_the_walk() -> None:
    assert walked(b"\xff\xd8\xff\xfe\x00\x01\xff\xd9").damaged
