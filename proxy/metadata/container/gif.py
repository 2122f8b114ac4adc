"""GIF: comments and application extensions (GIF89a, 23 to 26)."""

from __future__ import annotations

import struct

from proxy.metadata.container.collector import Collector, decode_text
from proxy.metadata.container.result import BlockKind

_COMMENT, _APPLICATION, _CONTROL = 0xFE, 0xFF, 0xF9
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_MAX_SUB_BLOCKS = 1_000_000
"""Of pixels; more than any GIF of 200 MB has."""
_XMP_TRAILER = 257
"""Bytes after an XMP packet: 0x01, then 0xFF down to 0x00. They make its text a chain of sub-blocks
for readers that do not know XMP."""
_APPLICATIONS = {b"ICCRGBG1012": BlockKind.ICC, b"C2PA_GIF\x01\x00\x00": BlockKind.C2PA}


class _Cut(Exception):
    """The file ends inside a block."""


def read(collector: Collector) -> None:
    """Walk the blocks up to the trailer."""
    header = collector.read(6, 7)
    if len(header) < 7:  # noqa: PLR2004 - the logical screen descriptor
        collector.damage("GIF is truncated")
        return
    width, height, flags = struct.unpack("<HHB", header[:5])
    collector.set_image(width=width, height=height, bit_depth=8, channels=1)
    try:
        frames = _Blocks(collector).walk(13 + _palette(flags))
    except _Cut:
        collector.damage("GIF is truncated")
        return
    collector.set_image(pages=max(1, frames), has_alpha=False)


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class _Blocks:
    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._left = _MAX_SUB_BLOCKS

    def walk(self, at: int) -> int:
        """Return the number of frames."""
        frames = 0
        while (kind := self._byte(at)) != _TRAILER:
            if kind == _IMAGE:
                frames += 1
                at += 10 + _palette(self._byte(at + 9)) + 1
                at = self._skip(at)
            elif kind == _EXTENSION:
                self._collector.count_chunk()
                at = self._extension(self._byte(at + 1), at + 2)
            else:
                self._collector.damage(f"GIF: no valid block at byte {at}")
                return frames
        self._collector.end = at + 1
        return frames

    def _byte(self, at: int) -> int:
        found = self._collector.read(at, 1)
        if not found:
            raise _Cut
        return found[0]

    def _skip(self, at: int) -> int:
        """Return the position after a chain of sub-blocks."""
        while length := self._byte(at):
            self._left -= 1
            if self._left < 0:
                self._collector.warn("GIF: more frames than are walked")
                raise _Cut
            at += 1 + length
        return at + 1

    def _content(self, at: int) -> bytes:
        """Return the joined sub-blocks of a chain that starts at a position."""
        parts = []
        while length := self._byte(at):
            parts.append(self._collector.read(at + 1, length))
            at += 1 + length
        return b"".join(parts)

    def _extension(self, label: int, at: int) -> int:
        if label == _CONTROL and self._byte(at + 1) & 1:
            self._collector.set_image(has_alpha=True)
        if label == _COMMENT:
            end = self._skip(at)
            self._collector.claim(at, end - at)
            self._collector.add_text("Comment", "GIF comment", decode_text(self._content(at)))
            return end
        if label == _APPLICATION:
            return self._application(at)
        return self._skip(at)

    def _application(self, at: int) -> int:
        name = self._collector.read(at + 1, self._byte(at))
        start = at + 1 + len(name)
        end = self._skip(start)
        if name == b"XMP DataXMP":
            extent = self._collector.claim(start, end - start)
            packet = self._collector.read(*extent)[: -_XMP_TRAILER - 1]
            self._collector.add_block(BlockKind.XMP, "GIF XMP", packet, [extent])
        elif kind := _APPLICATIONS.get(name):
            extent = self._collector.claim(start, end - start)
            where = f"GIF {kind.value.upper()}"
            self._collector.add_block(kind, where, self._content(start), [extent])
        return end
