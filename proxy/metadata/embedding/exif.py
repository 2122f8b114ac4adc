"""TIFF structures with text of IFD0 and of the Exif IFD: written, and compared."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

IFD0 = 0
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
_ASCII, _LONG, _UNDEFINED = 2, 4, 7
"""Types of TIFF values."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of one value by type."""
_INLINE = 4
_HEAD = b"II*\0" + struct.pack("<I", 8)
"""Little-endian, and the offset of IFD0."""
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def exif_of(ifd0: Mapping[int, bytes], exif: Mapping[int, bytes], comment: bytes = b"") -> bytes:
    """Return a TIFF structure: text of IFD0 and of the Exif IFD by tag, and the UserComment."""
    main = [(tag, _ASCII, text + b"\0") for tag, text in sorted(ifd0.items())]
    below = [(tag, _ASCII, text + b"\0") for tag, text in exif.items()]
    if comment:
        below.append((USER_COMMENT, _UNDEFINED, comment))
    if not below:
        return _HEAD + _directory(main, len(_HEAD))
    # The length does not depend on the value of the pointer.
    at = len(_HEAD) + len(_directory([*main, (EXIF_IFD, _LONG, bytes(_INLINE))], 0))
    pointer = (EXIF_IFD, _LONG, struct.pack("<I", at))
    # Tags of a directory must ascend.
    return _HEAD + _directory([*main, pointer], len(_HEAD)) + _directory(sorted(below), at)


def _directory(entries: list[tuple[int, int, bytes]], offset: int) -> bytes:
    data = offset + 2 + 12 * len(entries) + 4
    head, values = struct.pack("<H", len(entries)), b""
    for tag, kind, value in entries:
        count = len(value) // 4 if kind == _LONG else len(value)
        inline = value.ljust(_INLINE, b"\0")
        if len(value) > _INLINE:
            inline = struct.pack("<I", data + len(values))
            values += value + b"\0" * (len(value) & 1)
        head += struct.pack("<HHI", tag, kind, count) + inline
    return head + struct.pack("<I", 0) + values


def entries_of(tiff: bytes) -> dict[tuple[int, int], bytes]:
    """Return the values of IFD0 and the Exif IFD by directory and tag, in the file's byte order.

    Raises:
        ValueError: it is damaged, or has a third directory, such as that of a thumbnail.
    """
    order = _ORDERS.get(tiff[:4])
    if order is None:
        raise ValueError("not a TIFF structure")
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        found = dict(_entries(tiff, order, start, IFD0))
        if pointer := found.pop((IFD0, EXIF_IFD), b""):
            (start,) = struct.unpack(f"{order}I", pointer)
            found.update(_entries(tiff, order, start, EXIF_IFD))
    except struct.error:
        raise ValueError("the TIFF structure is damaged") from None
    return found


def _entries(
    tiff: bytes, order: str, start: int, directory: int
) -> Iterator[tuple[tuple[int, int], bytes]]:
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, items = struct.unpack_from(f"{order}HHI", tiff, at)
        length = items * _SIZES.get(kind, 0)
        offset = at + 8
        if length > _INLINE:
            (offset,) = struct.unpack_from(f"{order}I", tiff, offset)
        value = tiff[offset : offset + length]
        if not length or len(value) < length:
            raise ValueError("the TIFF structure is damaged")
        yield (directory, tag), value
    (following,) = struct.unpack_from(f"{order}I", tiff, start + 2 + 12 * count)
    if following:
        raise ValueError("the TIFF structure has more directories")
