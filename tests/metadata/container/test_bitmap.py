"""BMP, ICO, and where the JPEG of a RAF is."""

from __future__ import annotations

import struct

from tests.support.containers import jpeg_with_comment, walked
from tests.support.golden import golden


def test_a_bmp_has_a_size_also_from_top_to_bottom() -> None:
    header = struct.pack("<IiiHH", 40, 30, -20, 1, 24) + bytes(24)
    walk = walked(b"BM" + bytes(12) + header)
    assert (walk.image.width, walk.image.height, walk.image.bit_depth) == (30, 20, 8)
    core = walked(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 9, 8, 1, 4) + bytes(10))
    assert (core.image.width, core.image.height, core.image.bit_depth) == (9, 8, 4)


def test_the_largest_image_of_an_icon_counts() -> None:
    entries = bytes([16, 16]) + bytes(10) + bytes([38, 0, 0, 0]) + bytes([0, 0]) + bytes(14)
    walk = walked(b"\0\0\1\0\2\0" + entries)
    assert (walk.image.width, walk.image.height, walk.image.pages) == (256, 256, 2)


def test_a_truncated_icon_has_the_size_of_the_image_that_is_left() -> None:
    entry = bytes([16, 16]) + bytes(10) + (86).to_bytes(4, "little")
    walk = walked(b"\0\0\1\0\x05\0" + entry)
    assert walk.image.width == 16
    assert walk.damaged


def test_a_truncated_bitmap_is_damaged() -> None:
    assert walked(b"BM" + bytes(12) + struct.pack("<Iii", 40, 30, 20)[:10] + bytes(3)).damaged


def test_a_raf_has_the_exif_of_its_jpeg() -> None:
    inner = jpeg_with_comment("inside")
    head = b"FUJIFILMCCD-RAW ".ljust(84, b"\0") + struct.pack(">II", 100, len(inner))
    walk = walked(head.ljust(100, b"\0") + inner)
    assert walk.format == "raf"
    assert "inside" in {e.text for e in walk.exif}
    assert walked(head[:86]).damaged


def test_the_maker_of_a_golden_raf_is_read() -> None:
    walk = walked(golden("exiftool/images/FujiFilm.raf").read_bytes())
    assert {e.keyword: e.text for e in walk.exif}["Make"] == "FUJIFILM"
