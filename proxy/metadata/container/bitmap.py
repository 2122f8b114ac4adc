"""BMP and ICO: the size of the image; the formats hold no other metadata."""

from __future__ import annotations

import struct

from proxy.metadata.container.collector import Collector
from proxy.metadata.container.result import Extent

_BITMAP_HEADER = 14
_CORE_HEADER = 12
_DIRECTORY_ENTRY = 16


def read_bmp(collector: Collector) -> None:
    """Read the information header."""
    size = int.from_bytes(collector.read(_BITMAP_HEADER, 4), "little")
    collector.claim(0, _BITMAP_HEADER + min(size, 256))
    if size == _CORE_HEADER:
        header, layout = collector.read(18, 8), "<HHHH"
    else:
        header, layout = collector.read(18, 12), "<iiHH"
    if len(header) < struct.calcsize(layout):
        collector.damage("BMP is truncated")
        return
    width, height, _planes, depth = struct.unpack(layout, header)
    # A negative height means rows from top to bottom.
    collector.set_image(width=abs(width), height=abs(height), pages=1)
    collector.set_image(bit_depth=8 if depth >= 24 else depth)  # noqa: PLR2004 - bits per pixel


def read_ico(collector: Collector) -> None:
    """Read the directory; the size is that of the largest image."""
    count = int.from_bytes(collector.read(4, 2), "little")
    table = collector.metadata(6, min(count, 256) * _DIRECTORY_ENTRY, "ICO directory")
    # Zero means 256.
    sizes = [
        (table[at] or 256, table[at + 1] or 256)
        for at in range(0, len(table) - _DIRECTORY_ENTRY + 1, _DIRECTORY_ENTRY)
    ]
    if sizes:
        width, height = max(sizes)
        collector.set_image(width=width, height=height, pages=count)


def embedded_jpeg(collector: Collector) -> Extent | None:
    """Return where the JPEG of a RAF file is; it holds the camera's EXIF."""
    head = collector.read(84, 8)
    if len(head) < 8:  # noqa: PLR2004
        collector.damage("RAF is truncated")
        return None
    return Extent(int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big"))
