"""Plans how metadata is removed from a file without encoding its pixels again.

The plan lists the ranges of the file that stay, and the few bytes that are new. So neither the
worker nor the server holds the file in memory, and a client can resume its download.
"""

from __future__ import annotations

import os
import re
import struct
from binascii import crc32
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.domain.worker_protocol import JobFailure, KeptRange, RemovalPlan

MAX_RANGES = 10_000
_BLOCK = 256 * 1024
_MAX_EXIF = 64 * 1024
_APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_SOS, _EOI = 0xDA, 0xD9
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_KEPT = {_APP0: b"JFIF\0", _APP2: b"ICC_PROFILE\0", _APP14: b"Adobe"}
"""Segments that decoders need, by what they begin with; all others of the applications go."""
# In image data 0xFF is followed by 0 or by a restart marker.
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_PNG_KEPT = frozenset(
    b"tRNS cHRM gAMA iCCP sBIT sRGB bKGD hIST pHYs cICP mDCV cLLI acTL fcTL fdAT".split()
)
_ANCILLARY = 0x20
_WEBP_KEPT = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04
_GIF_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_GIF_IMAGE, _GIF_EXTENSION, _GIF_TRAILER = 0x2C, 0x21, 0x3B
_GIF_COMMENT, _GIF_APPLICATION = 0xFE, 0xFF
_ORIENTATION = 0x0112
_EXIF_PREFIX = b"Exif\0\0"


class _Damaged(Exception):
    """The structure of the file ends early or contradicts itself."""


class _Part(NamedTuple):
    """A range of the file that stays, after bytes that are new."""

    start: int
    stop: int
    before: bytes = b""


class _File:
    """Bytes of a descriptor by their position; blocks are read as they are needed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.length = os.fstat(descriptor).st_size
        self._at, self._block = 0, b""

    def read(self, start: int, count: int) -> bytes:
        """Return exactly these bytes."""
        if count < 0 or start + count > self.length:
            raise _Damaged
        if not self._at <= start <= start + count <= self._at + len(self._block):
            self._at = start
            self._block = os.pread(self._descriptor, max(count, _BLOCK), start)
        found = self._block[start - self._at :][:count]
        if len(found) < count:
            raise _Damaged
        return found

    def block(self, start: int) -> bytes:
        """Return the bytes from a position on, as many as are read at once."""
        return os.pread(self._descriptor, _BLOCK, start)


def plan_removal(descriptor: int) -> RemovalPlan | JobFailure:
    """Return what stays of an open file without its metadata.

    Colour profiles, animations and transparency stay, and so does the orientation: without it a
    photograph would lie on its side.
    """
    file = _File(descriptor)
    kind = sniff(os.pread(descriptor, SNIFF_BYTES, 0)) or "unknown"
    planner = _PLANNERS.get(kind)
    if planner is None:
        detail = (
            f"metadata cannot be removed from this type ({kind}) without encoding the image again;"
            " use metadata=kept, or request a rendition"
        )
        return JobFailure("unsupported", detail)
    try:
        parts = _merged(planner(file))
    except (_Damaged, struct.error, IndexError):
        return JobFailure("undecodable", "the file is damaged: its metadata cannot be found")
    if len(parts) > MAX_RANGES:
        return JobFailure("too_large", f"metadata occurs in more than {MAX_RANGES} places")
    return RemovalPlan(tuple(KeptRange(one.start, one.stop, one.before.hex()) for one in parts))


def _merged(parts: list[_Part]) -> list[_Part]:
    """Join ranges that follow each other."""
    merged: list[_Part] = []
    for one in parts:
        if merged and not one.before and merged[-1].stop == one.start:
            merged[-1] = merged[-1]._replace(stop=one.stop)
        else:
            merged.append(one)
    return merged


def _jpeg(file: _File) -> list[_Part]:
    parts, orientation, at = [_Part(0, 2)], 1, 2
    while True:
        start = at
        marker, at = _marker(file, at)
        if marker == _SOS:
            # Behind the end may be other images, with metadata of their own.
            parts.append(_Part(start, _end_of_jpeg(file, at)))
            break
        content = b""
        if marker not in _STANDALONE:
            length = struct.unpack(">H", file.read(at, 2))[0]
            content = file.read(at + 2, length - 2)
            at += length
        if marker == _APP1 and content.startswith(_EXIF_PREFIX):
            orientation = _orientation(content.removeprefix(_EXIF_PREFIX))
        if _is_kept(marker, content):
            parts.append(_Part(start, at))
    if orientation > 1:
        body = _EXIF_PREFIX + _exif(orientation)
        new = struct.pack(">BBH", 0xFF, _APP1, len(body) + 2) + body
        # JFIF must be the first segment; EXIF is content with the second place.
        place = 2 if file.read(parts[1].start, 2) == b"\xff\xe0" else 1
        parts[place] = parts[place]._replace(before=new)
    return parts


def _is_kept(marker: int, content: bytes) -> bool:
    if marker in _JPEG_KEPT:
        return content.startswith(_JPEG_KEPT[marker])
    return not (_APP0 <= marker <= _APP15 or marker == _COM)


def _marker(file: _File, at: int) -> tuple[int, int]:
    """Return the marker of the segment that begins here, and the position behind it."""
    if file.read(at, 1) != b"\xff":
        raise _Damaged
    # Fill bytes may precede it.
    while file.read(at, 1) == b"\xff":
        at += 1
    marker = file.read(at, 1)[0]
    if marker == _EOI:
        raise _Damaged
    return marker, at + 1


def _end_of_jpeg(file: _File, at: int) -> int:
    """Return the position behind the EOI of an image whose first scan header begins at ``at``."""
    while True:
        # A scan header, or a segment between two scans.
        at += struct.unpack(">H", file.read(at, 2))[0]
        found = None
        while found is None:
            block = file.block(at)
            found = _NEXT_MARKER.search(block)
            if found is None:
                if at + len(block) >= file.length:
                    # Truncated: what is there can be decoded.
                    return file.length
                # The marker's first byte may be the last one of the block.
                at += len(block) - 1
        at += found.end()
        if found[0][-1] == _EOI:
            return at


def _png(file: _File) -> list[_Part]:
    parts, orientation, at = [_Part(0, 8)], 1, 8
    while True:
        length, kind = struct.unpack(">I4s", file.read(at, 8))
        stop = at + 12 + length
        if stop > file.length:
            raise _Damaged
        if kind == b"eXIf":
            orientation = _orientation(file.read(at + 8, min(length, _MAX_EXIF)))
        elif not kind[0] & _ANCILLARY or kind in _PNG_KEPT:
            parts.append(_Part(at, stop))
        at = stop
        if kind == b"IEND":
            break
    if orientation > 1:
        body = b"eXIf" + _exif(orientation)
        new = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", crc32(body))
        # Behind IHDR, which is the first chunk.
        parts[2] = parts[2]._replace(before=new)
    return parts


def _webp(file: _File) -> list[_Part]:
    end = 8 + struct.unpack("<I", file.read(4, 4))[0]
    if end > file.length:
        raise _Damaged
    chunks, orientation, at = [], 1, 12
    while at + 8 <= end:
        kind, length = struct.unpack("<4sI", file.read(at, 8))
        stop = at + 8 + length + (length & 1)
        if stop > end:
            raise _Damaged
        if kind == b"EXIF":
            exif = file.read(at + 8, min(length, _MAX_EXIF))
            orientation = _orientation(exif.removeprefix(_EXIF_PREFIX))
        elif kind in _WEBP_KEPT:
            chunks.append((kind, at, stop))
        at = stop
    if not chunks:
        raise _Damaged
    exif = _exif(orientation) if orientation > 1 and chunks[0][0] == b"VP8X" else b""
    tail = struct.pack("<4sI", b"EXIF", len(exif)) + exif if exif else b""
    size = 4 + sum(stop - start for _, start, stop in chunks) + len(tail)
    new = struct.pack("<4sI4s", b"RIFF", size, b"WEBP")
    first = chunks[0][1]
    if chunks[0][0] == b"VP8X":
        flags = file.read(first + 8, 1)[0] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if exif else 0)
        new += file.read(first, 8) + bytes((flags,))
        first += 9
    parts = [_Part(start, stop) for _, start, stop in chunks]
    parts[0] = _Part(first, chunks[0][2], new)
    return [*parts, _Part(end, end, tail)] if tail else parts


def _gif(file: _File) -> list[_Part]:
    at = 13 + _colour_table(file.read(10, 1)[0])
    parts = [_Part(0, at)]
    while True:
        start, kind = at, file.read(at, 1)[0]
        kept = True
        if kind == _GIF_TRAILER:
            return [*parts, _Part(start, at + 1)]
        if kind == _GIF_IMAGE:
            at += 10 + _colour_table(file.read(at + 9, 1)[0]) + 1
        elif kind == _GIF_EXTENSION:
            label = file.read(at + 1, 1)[0]
            at += 2
            if label == _GIF_APPLICATION:
                kept = file.read(at + 1, 11) in _GIF_LOOPS
            elif label == _GIF_COMMENT:
                kept = False
        else:
            raise _Damaged
        while count := file.read(at, 1)[0]:
            at += 1 + count
        at += 1
        if kept:
            parts.append(_Part(start, at))


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _whole(file: _File) -> list[_Part]:
    # A BMP has no metadata.
    return [_Part(0, file.length)]


def _orientation(tiff: bytes) -> int:
    """Return the orientation in IFD0, 1 to 8; 1 if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    for tag, kind, count, value in _entries(tiff, order):
        if (tag, kind, count) == (_ORIENTATION, 3, 1) and 1 <= value <= 8:  # noqa: PLR2004
            return int(value)
    return 1


def _entries(tiff: bytes, order: str) -> Iterator[tuple[int, int, int, int]]:
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, at)
        for number in range(entries):
            yield struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * number)
    except struct.error:
        return


def _exif(orientation: int) -> bytes:
    """Return a TIFF structure with the orientation and nothing else."""
    entry = struct.pack("<HHIHH", _ORIENTATION, 3, 1, orientation, 0)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


_PLANNERS: dict[str, Callable[[_File], list[_Part]]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "gif": _gif,
    "bmp": _whole,
}
