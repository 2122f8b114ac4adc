"""Photoshop: image resource blocks in JPEG, TIFF and PSD, and the header of PSD."""

from __future__ import annotations

import struct

from proxy.metadata.container.collector import Collector
from proxy.metadata.container.result import Block, BlockKind

_KINDS = {
    0x0404: BlockKind.IPTC,
    0x040F: BlockKind.ICC,
    0x0422: BlockKind.EXIF,
    0x0424: BlockKind.XMP,
}
_HEADER = 26


def read(collector: Collector) -> None:
    """Read the header of a PSD or PSB and its image resources."""
    header = collector.read(0, _HEADER)
    if len(header) < _HEADER:
        collector.damage("PSD is truncated")
        return
    channels, height, width, depth = struct.unpack(">HIIH", header[12:24])
    collector.set_image(width=width, height=height, bit_depth=depth, channels=channels)
    palette = int.from_bytes(collector.read(_HEADER, 4), "big")
    at = _HEADER + 4 + palette
    length = int.from_bytes(collector.read(at, 4), "big")
    content = collector.metadata(at + 4, length, "PSD image resources")
    extent = (collector.claim(at + 4, 0),)
    collector.add_block(BlockKind.PHOTOSHOP, "PSD image resources", content, extent)


def expand(collector: Collector, block: Block) -> None:
    """Add the IPTC, ICC, EXIF and XMP blocks inside image resource blocks."""
    content, at = block.content, 0
    while at + 12 <= len(content):
        if content[at : at + 4] not in (b"8BIM", b"PHUT", b"DCSR", b"AgHg", b"MeSa"):
            break
        collector.count_chunk()
        identifier = int.from_bytes(content[at + 4 : at + 6], "big")
        # A Pascal string, padded so that its length byte and text are even.
        at += 6 + (content[at + 6] + 2) // 2 * 2
        length = int.from_bytes(content[at : at + 4], "big")
        inner = content[at + 4 : at + 4 + length]
        if len(inner) < length:
            collector.damage(f"{block.where}: an image resource is truncated")
        if kind := _KINDS.get(identifier):
            collector.add_block(kind, f"{block.where} 8BIM", inner, block.ranges)
        at += 4 + length + length % 2
