"""PNG: text, EXIF, ICC and C2PA chunks before and after the pixels (PNG 3rd edition, 11.3)."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace

from proxy.metadata.container.collector import Collector, decode_text
from proxy.metadata.container.result import BlockKind, Extent

_SIGNATURE = 8
_HEADER = 8
_CRC = 4
_PIXELS = (b"IDAT", b"fdAT")
_LARGE = 4096
"""Chunks of pixels from this size on are not counted: a photograph has ten thousand of them."""
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_METADATA = (*_TEXT, b"eXIf", b"iCCP", b"caBX", b"tIME", b"pHYs")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_XMP = "XML:com.adobe.xmp"
_PROFILE = re.compile(r"Raw profile type (\w+)", re.IGNORECASE)
_PROFILES = {
    "exif": BlockKind.EXIF,
    "app1": BlockKind.EXIF,
    "iptc": BlockKind.PHOTOSHOP,
    "8bim": BlockKind.PHOTOSHOP,
    "xmp": BlockKind.XMP,
    "icc": BlockKind.ICC,
    "icm": BlockKind.ICC,
}


def read(collector: Collector) -> None:
    """Walk the chunks up to IEND."""
    at = _SIGNATURE
    while at + _HEADER <= collector.size:
        length, kind = struct.unpack(">I4s", collector.read(at, _HEADER))
        if kind not in _PIXELS or length < _LARGE:
            collector.count_chunk()
        if not kind.isalpha():
            collector.damage(f"PNG: no valid chunk at byte {at}")
            return
        if kind == b"IEND":
            collector.set_image(pages=1)
            collector.end = at + _HEADER + length + _CRC
            return
        _chunk(collector, kind, Extent(at + _HEADER, length))
        at += _HEADER + length + _CRC
    collector.damage("PNG is truncated: the IEND chunk is missing")


def _chunk(collector: Collector, kind: bytes, extent: Extent) -> None:
    if kind == b"IHDR":
        _header(collector, collector.read(extent.offset, 13))

    elif kind == b"tRNS":
        collector.image = replace(collector.image, has_alpha=True)
    elif kind == b"acTL":
        frames = collector.read(extent.offset, 4)
        collector.set_image(pages=int.from_bytes(frames, "big"))
    elif kind in _METADATA:
        where = f"PNG {kind.decode()}"
        content = collector.metadata(*extent, where)
        stored = collector.read(extent.offset + extent.length, _CRC)
        if stored and int.from_bytes(stored, "big") != zlib.crc32(kind + content):
            collector.damage(f"{where} has a wrong checksum")
        _metadata(collector, kind, content, extent)


def _header(collector: Collector, header: bytes) -> None:
    if len(header) < 13:  # noqa: PLR2004
        collector.damage("PNG IHDR is truncated")
        return
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    collector.set_image(
        width=width,
        height=height,
        bit_depth=depth,
        channels=_CHANNELS.get(colour),
        has_alpha=colour in (4, 6),
    )


def _metadata(collector: Collector, kind: bytes, content: bytes, extent: Extent) -> None:
    where = f"PNG {kind.decode()}"
    if kind in _TEXT:
        _text(collector, kind, content, extent)
    elif kind == b"eXIf":
        collector.add_block(BlockKind.EXIF, where, content, [extent])
    elif kind == b"caBX":
        collector.add_block(BlockKind.C2PA, where, content, [extent])
    elif kind == b"iCCP":
        _, _, deflated = content.partition(b"\0")
        profile = collector.inflate(deflated[1:], where)
        collector.add_block(BlockKind.ICC, where, profile, [extent])


def _text(collector: Collector, kind: bytes, content: bytes, extent: Extent) -> None:
    where = f"PNG {kind.decode()}"
    keyword, separator, rest = content.partition(b"\0")
    language = b""
    if not separator:
        collector.damage(f"{where} has no text")
        return
    if kind == b"zTXt":
        rest = collector.inflate(rest[1:], where)
    elif kind == b"iTXt":
        compressed, rest = rest[:1] == b"\1", rest[2:]
        language, _, rest = rest.partition(b"\0")
        _translated, _, rest = rest.partition(b"\0")
        rest = collector.inflate(rest, where) if compressed else rest
    name = decode_text(keyword)
    if name == _XMP:
        collector.add_block(BlockKind.XMP, where, rest, [extent])
    elif (profile := _PROFILE.fullmatch(name)) and profile[1].lower() in _PROFILES:
        _profile(collector, _PROFILES[profile[1].lower()], where, rest, extent)
    else:
        collector.add_text(name, where, decode_text(rest), decode_text(language))


def _profile(
    collector: Collector, kind: BlockKind, where: str, text: bytes, extent: Extent
) -> None:
    """Add a profile as ImageMagick writes it: a name, a length, then hexadecimal digits."""
    digits = text.split(maxsplit=2)[2:]
    try:
        content = bytes.fromhex(b"".join(digits).decode("ascii"))
    except ValueError:
        collector.warn(f"{where}: a raw profile is not hexadecimal")
        return
    xmp = b"http://ns.adobe.com/xap/1.0/\0"
    if content.startswith(xmp):
        kind, content = BlockKind.XMP, content[len(xmp) :]
    collector.add_block(kind, where, content, [extent])
