"""WebP: RIFF chunks for EXIF, XMP, ICC and C2PA, and the size of the image."""

from __future__ import annotations

import struct

from proxy.metadata.container.collector import Collector
from proxy.metadata.container.result import BlockKind, Extent

_HEADER = 12
_BLOCKS = {
    b"EXIF": BlockKind.EXIF,
    b"XMP ": BlockKind.XMP,
    b"ICCP": BlockKind.ICC,
    b"C2PA": BlockKind.C2PA,
}
_ALPHA = 0x10


def read(collector: Collector) -> None:
    """Walk the chunks up to the declared end of the RIFF form, or of the file."""
    declared = int.from_bytes(collector.read(4, 4), "little") + 8
    if declared > collector.size:
        collector.damage("WebP is truncated")
    else:
        collector.end = declared + declared % 2
    # Cameras and archives append zeros, or files with metadata of their own.
    at, frames, stop = _HEADER, 0, min(declared, collector.size)
    while at + 8 <= stop:
        kind = collector.read(at, 4)
        length = int.from_bytes(collector.read(at + 4, 4), "little")
        collector.count_chunk()
        _chunk(collector, kind, Extent(at + 8, length))
        frames += kind == b"ANMF"
        at += 8 + length + length % 2
    collector.set_image(pages=max(1, frames))


def _chunk(collector: Collector, kind: bytes, extent: Extent) -> None:
    if block := _BLOCKS.get(kind):
        where = f"WebP {kind.decode().strip()}"
        content = collector.metadata(*extent, where)
        collector.add_block(block, where, content, [extent])
        return
    head = collector.read(extent.offset, 10)
    if len(head) < 10:  # noqa: PLR2004 - the longest of the three headers
        return
    if kind == b"VP8X":
        collector.set_image(
            width=1 + int.from_bytes(head[4:7], "little"),
            height=1 + int.from_bytes(head[7:10], "little"),
            has_alpha=bool(head[0] & _ALPHA),
        )
    elif kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[6:10])
        collector.set_image(width=width & 0x3FFF, height=height & 0x3FFF, has_alpha=False)
        collector.set_image(bit_depth=8, channels=3)
    elif kind == b"VP8L" and head[0] == 0x2F:  # noqa: PLR2004 - signature
        bits = int.from_bytes(head[1:5], "little")
        alpha = bool(bits >> 28 & 1)
        collector.set_image(
            width=1 + (bits & 0x3FFF), height=1 + (bits >> 14 & 0x3FFF), has_alpha=alpha
        )
        collector.set_image(bit_depth=8, channels=4 if alpha else 3)
