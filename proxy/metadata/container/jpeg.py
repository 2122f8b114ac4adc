"""JPEG: application segments, comments and the frame header (ITU T.81, annex B)."""

from __future__ import annotations

import struct
from collections import defaultdict

from proxy.metadata.container.collector import Collector, decode_text
from proxy.metadata.container.result import BlockKind, Extent

_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP2, _APP11, _APP13, _APP15 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEF
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_EXIF = b"Exif\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_ICC = b"ICC_PROFILE\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_MAX_GUIDS = 16
"""Of extended XMP; a file has one."""
_TAIL, _MAX_TAIL = 1 << 10, 1 << 20


def read(collector: Collector, start: int = 0) -> None:
    """Walk the segments up to the first scan. ``start`` is the offset of the JPEG in the file."""
    segments = _Segments(collector)
    at = start + 2
    while True:
        marker, at = _next_marker(collector, at)
        if marker is None or marker == _EOI:
            collector.damage("JPEG is truncated: no image data")
            break
        if marker == _SOS:
            _check_end(collector, at)
            break
        if marker in _STANDALONE:
            continue
        collector.count_chunk()
        length = int.from_bytes(collector.read(at, 2), "big")
        if length < 2:  # noqa: PLR2004 - the length counts itself
            collector.damage(f"JPEG: a segment at byte {at} has an invalid length")
            break
        segments.add(marker, Extent(at + 2, length - 2))
        at += length
    segments.finish()


def _next_marker(collector: Collector, at: int) -> tuple[int | None, int]:
    """Return the marker at a position and the position after it; padding is skipped."""
    found = collector.read(at, 2)
    if len(found) < 2 or found[0] != 0xFF:  # noqa: PLR2004
        return None, at
    at += 1
    while found := collector.read(at, 1):
        at += 1
        if found != b"\xff":
            return found[0], at
    return None, at


def _check_end(collector: Collector, scan: int) -> None:
    """Search the end-of-image marker from the end; trailers of other data may follow it."""
    # Most files end with it: a search of the last megabyte takes longer than all else.
    end, length = collector.size, _TAIL
    while end > scan:
        begin = max(scan, end - length)
        if b"\xff\xd9" in collector.read(begin, end - begin + 1):
            return
        end, length = begin, min(32 * length, _MAX_TAIL)
    collector.damage("JPEG is truncated: the end-of-image marker is missing")


class _Segments:
    """Sorts segments by their signature and joins blocks of several segments."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._exif: list[tuple[bytes, Extent]] = []
        self._xmp: list[tuple[bytes, Extent]] = []
        self._extended: dict[bytes, list[tuple[int, bytes, Extent]]] = defaultdict(list)
        self._icc: list[tuple[int, bytes, Extent]] = []
        self._photoshop: list[tuple[bytes, Extent]] = []
        self._boxes: dict[bytes, list[tuple[int, bytes, Extent]]] = defaultdict(list)

    def add(self, marker: int, extent: Extent) -> None:
        """Sort one segment."""
        if marker in _FRAMES:
            self._frame(marker, self._collector.read(extent.offset, 6))
        elif _APP0 <= marker <= _APP15:
            where = f"JPEG APP{marker - _APP0}"
            content = self._collector.metadata(*extent, where)
            self._application(marker, content, extent)
        elif marker == _COM:
            content = self._collector.metadata(*extent, "JPEG COM")
            text = decode_text(content.rstrip(b"\0"))
            self._collector.add_text("Comment", "JPEG COM", text)

    def _frame(self, marker: int, header: bytes) -> None:
        if len(header) == 6:  # noqa: PLR2004
            depth, height, width, components = struct.unpack(">BHHB", header)
            if not height:
                self._collector.warn(
                    "JPEG: the frame header leaves the height open; a DNL marker after the first"
                    " scan has it, which is not read"
                )
            self._collector.set_image(
                width=width,
                height=height or None,
                bit_depth=depth,
                channels=components,
                has_alpha=False,
                pages=1,
                progressive=marker in _PROGRESSIVE,
            )

    def _application(self, marker: int, content: bytes, extent: Extent) -> None:
        if marker == _APP1 and content.startswith(_EXIF):
            self._exif.append((content[6:], extent))
        elif marker == _APP1 and content.startswith(_XMP):
            self._xmp.append((content[len(_XMP) :], extent))
        elif marker == _APP1 and content.startswith(_EXTENDED):
            guid, rest = content[len(_EXTENDED) :][:32], content[len(_EXTENDED) + 32 :]
            offset = int.from_bytes(rest[4:8], "big")
            self._extended[guid].append((offset, rest[8:], extent))
        elif marker == _APP2 and content.startswith(_ICC):
            number = int.from_bytes(content[len(_ICC) :][:1], "big")
            self._icc.append((number, content[len(_ICC) + 2 :], extent))
        elif marker == _APP11 and content[:2] == b"JP":
            sequence = int.from_bytes(content[4:8], "big")
            self._boxes[content[2:4]].append((sequence, content[8:], extent))
        elif marker == _APP13 and content.startswith(_PHOTOSHOP):
            self._photoshop.append((content[len(_PHOTOSHOP) :], extent))
        else:
            self._collector.add_other(f"JPEG APP{marker - _APP0}", extent)

    def finish(self) -> None:
        """Add the joined blocks."""
        add = self._collector.add_block
        for contents, ranges in self._joined_exif():
            add(BlockKind.EXIF, "JPEG APP1", b"".join(contents), ranges)
        for content, extent in self._xmp:
            add(BlockKind.XMP, "JPEG APP1", content, [extent])
        packets = b"".join(content for content, _ in self._xmp)
        for number, (guid, parts) in enumerate(self._extended.items()):
            # A search takes milliseconds, and a file could have ten thousand of them.
            if number < _MAX_GUIDS and guid in packets:
                self._extended_xmp(parts)
            else:
                self._collector.warn("JPEG: extended XMP belongs to no packet")
        self._add_sorted(BlockKind.ICC, "JPEG APP2", self._icc)
        joined = b"".join(content for content, _ in self._photoshop)
        add(BlockKind.PHOTOSHOP, "JPEG APP13", joined, [extent for _, extent in self._photoshop])
        for parts in self._boxes.values():
            self._manifest(sorted(parts))

    def _joined_exif(self) -> list[tuple[list[bytes], list[Extent]]]:
        """Sort the segments of EXIF blocks; only the first one of a block has a TIFF header."""
        joined: list[tuple[list[bytes], list[Extent]]] = []
        for content, extent in self._exif:
            if not joined or content[:4] in (b"II*\0", b"MM\0*"):
                joined.append(([], []))
            contents, ranges = joined[-1]
            contents.append(content)
            ranges.append(extent)
        return joined

    def _extended_xmp(self, parts: list[tuple[int, bytes, Extent]]) -> None:
        parts.sort()
        expected = 0
        for offset, content, _ in parts:
            if offset != expected:
                self._collector.damage("JPEG: extended XMP is incomplete")
                return
            expected += len(content)
        self._add_sorted(BlockKind.XMP, "JPEG APP1 extended", parts)

    def _add_sorted(
        self, kind: BlockKind, where: str, parts: list[tuple[int, bytes, Extent]]
    ) -> None:
        parts.sort()
        content = b"".join(part for _, part, _ in parts)
        self._collector.add_block(kind, where, content, [extent for *_, extent in parts])

    def _manifest(self, parts: list[tuple[int, bytes, Extent]]) -> None:
        """Join a JUMBF superbox; each segment after the first repeats its header."""
        first = parts[0][1]
        if first[4:8] != b"jumb" or b"c2pa" not in first[:64]:
            return
        header = 16 if first[:4] == b"\0\0\0\1" else 8
        content = first + b"".join(part[header:] for _, part, _ in parts[1:])
        ranges = [extent for *_, extent in parts]
        self._collector.add_block(BlockKind.C2PA, "JPEG APP11", content, ranges)
