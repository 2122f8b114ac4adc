"""TIFF structures of text: what is written is read again; other structures are refused."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from proxy.metadata.embedding.exif import EXIF_IFD, IFD0, USER_COMMENT, entries_of, exif_of

TIFF = exif_of({0x010E: b"a cat", 0x0131: b"ab"}, {0x9010: b"+00:00"}, b"UNICODE\0{\0}\0")


def test_what_was_written_is_read() -> None:
    assert entries_of(TIFF) == {
        (IFD0, 0x010E): b"a cat\0",
        (IFD0, 0x0131): b"ab\0",
        (EXIF_IFD, 0x9010): b"+00:00\0",
        (EXIF_IFD, USER_COMMENT): b"UNICODE\0{\0}\0",
    }
    assert entries_of(exif_of({0x010E: b"a cat"}, {})) == {(IFD0, 0x010E): b"a cat\0"}


def test_other_byte_orders_and_types_are_read() -> None:
    exif = Image.Exif()
    exif.endian = ">"
    exif[0x0112], exif[0x011A], exif[0x010E] = 6, 72.0, "a cat"
    exif.get_ifd(EXIF_IFD)[0x9010] = "+00:00"
    assert entries_of(exif.tobytes()[6:]) == {
        (IFD0, 0x0112): b"\0\6",
        (IFD0, 0x011A): struct.pack(">II", 72, 1),
        (IFD0, 0x010E): b"a cat\0",
        (EXIF_IFD, 0x9010): b"+00:00\0",
    }


def test_a_thumbnail_and_positions_are_more_than_text() -> None:
    thumbnail = bytearray(TIFF)
    struct.pack_into("<I", thumbnail, 8 + 2 + 3 * 12, 8)
    with pytest.raises(ValueError, match="more directories"):
        entries_of(bytes(thumbnail))
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    buffer = io.BytesIO(exif.tobytes()[6:])
    assert (IFD0, 0x8825) in entries_of(buffer.getvalue())


@pytest.mark.parametrize("length", range(len(TIFF)))
def test_a_truncated_structure_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"damaged|not a TIFF"):
        entries_of(TIFF[:length])


def test_an_unknown_type_is_refused() -> None:
    unknown = bytearray(TIFF)
    struct.pack_into("<H", unknown, 8 + 2 + 2, 99)
    with pytest.raises(ValueError, match="damaged"):
        entries_of(bytes(unknown))
