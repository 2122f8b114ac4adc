"""Hand-made sources: small files that claim to be very large, and files Pillow cannot write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG whose header is right and whose pixels are a few bytes of nothing."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def headless_png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, interlace: int = 0
) -> bytes:
    """A PNG of 41 bytes: it ends where its pixels would begin."""
    whole = png(width, height, depth=depth, colour=colour, interlace=interlace)
    return whole[:33] + struct.pack(">I", 0) + b"IDAT"


def apng(width: int, height: int, *, pages: int) -> bytes:
    """An animated PNG whose frames claim to be large; of one pixel each except the first."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixel = zlib.compress(bytes(4))
    chunks = [(b"IHDR", header), (b"acTL", struct.pack(">II", pages, 0))]
    for number in range(pages):
        side = (width, height) if number == 0 else (1, 1)
        place = struct.pack(">IIIIIHHBB", max(0, 2 * number - 1), *side, 0, 0, 1, 10, 0, 0)
        chunks.append((b"fcTL", place))
        first = (b"IDAT", pixel)
        chunks.append((b"fdAT", struct.pack(">I", 2 * number) + pixel) if number else first)
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def jxl(side: int) -> bytes:
    """A JPEG XL whose header claims a square, and whose frame is missing."""
    value = length = 0
    # Not small; the height in 30 bits, minus 1; as wide as high; all defaults (18181-1, annex D).
    for bits, field in ((1, 0), (2, 3), (30, side - 1), (3, 1), (1, 1)):
        value |= field << length
        length += bits
    return b"\xff\x0a" + value.to_bytes(length // 8 + 9, "little")


def jpeg(width: int, height: int, *, components: int = 3) -> bytes:
    """A JPEG whose frame header claims a size and whose scan holds nothing."""
    parts = b"".join(bytes((number + 1, 0x11, 0)) for number in range(components))
    frame = struct.pack(">BHHB", 8, height, width, components) + parts
    tables = b"\x00" + bytes([16] * 64)
    huffman = b"".join(bytes((kind, 0, 1)) + bytes(14) + b"\x00" for kind in (0x00, 0x10))
    selectors = b"".join(bytes((number + 1, 0)) for number in range(components))
    scan = bytes((components,)) + selectors + bytes((0, 63, 0))
    segments = ((0xDB, tables), (0xC0, frame), (0xC4, huffman), (0xDA, scan))
    return (
        b"\xff\xd8"
        + b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments)
        + bytes(64)
        + b"\xff\xd9"
    )


def webp(width: int, height: int, *, pages: int) -> bytes:
    """An animated WebP whose frames claim to be large and are one pixel of nothing each."""
    flags = struct.pack("<I", 0b10)
    canvas = flags + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    pixel = _riff(b"VP8L", bytes.fromhex("2f00000000078811fd0f44ff03"))
    frame = bytes(6) + bytes(3) + bytes(3) + (10).to_bytes(3, "little") + bytes(1) + pixel
    body = _riff(b"VP8X", canvas) + _riff(b"ANIM", bytes(6)) + _riff(b"ANMF", frame) * pages
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def gif(width: int, height: int, *, pages: int) -> bytes:
    """A GIF with many frames that say they are large and hold one pixel."""
    screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return screen + frame * pages + b"\x3b"


def with_text(picture: bytes, keyword: bytes) -> bytes:
    """A PNG with a text chunk behind its header; keywords are Latin-1 (PNG, 11.3.3.2)."""
    end_of_header = 8 + 25
    chunk = _chunk(b"tEXt", keyword + b"\0text")
    return picture[:end_of_header] + chunk + picture[end_of_header:]


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def gif_of(frames: Sequence[bytes], durations_ms: Sequence[int]) -> bytes:
    """Whole GIFs of one size as one animation, frames that repeat one too: Pillow drops those."""
    screen = frames[0][6:10] + b"\0\0\0"
    parts = [_gif_frame(one, ms) for one, ms in zip(frames, durations_ms, strict=True)]
    return b"GIF89a" + screen + b"".join(parts) + b"\x3b"


def _gif_frame(still: bytes, duration_ms: int) -> bytes:
    """A still's colours and pixels as a frame with a table of its own (GIF89a, 20, 21 and 23)."""
    size = still[10] & 7
    table = still[13 : 13 + (3 << size + 1)]
    pixels = still[still.index(b"\x2c", 13 + len(table)) + 10 : -1]
    control = b"\x21\xf9\x04\x04" + struct.pack("<H", duration_ms // 10) + b"\0\0"
    descriptor = b"\x2c" + bytes(4) + still[6:10] + bytes([0x80 | size])
    return control + descriptor + table + pixels


@dataclass(frozen=True, slots=True)
class HeifItem:
    """An item of a HEIF; its number is its place in the file, from 1."""

    kind: bytes
    payload: bytes = b""
    properties: tuple[tuple[bytes, bytes], ...] = ()
    references: tuple[tuple[bytes, Sequence[int]], ...] = ()
    """Type and the numbers of the items referred to."""
    extents: int = 1
    """How often the payload is read."""
    hidden: bool = False


def heif(
    brand: bytes, payload: bytes, size: tuple[int, int], *properties: tuple[bytes, bytes]
) -> bytes:
    """An AVIF or HEIC with one item: its coded frame, and properties as pairs of name and body."""
    kind = {b"avif": b"av01", b"heic": b"hvc1"}[brand]
    return heif_of(brand, [HeifItem(kind, payload, (ispe(*size), *properties))])


def ispe(width: int, height: int) -> tuple[bytes, bytes]:
    """The property with the size of an item."""
    return b"ispe", struct.pack(">III", 0, width, height)


def grid(
    columns: int, rows: int, size: tuple[int, int], tiles: Sequence[int], **options: Any
) -> HeifItem:
    """An item that consists of tiles (ISO/IEC 23008-12, 6.6.2.3)."""
    payload = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, *size)
    return HeifItem(b"grid", payload, (ispe(*size),), ((b"dimg", tiles),), **options)


def heif_of(
    brand: bytes, items: Sequence[HeifItem], *, primary: int = 1, padding: int = 0, inner: int = 0
) -> bytes:
    """An AVIF or HEIC of many items; empty boxes precede those of the file, and the tables."""
    empty = _box(b"free", b"")
    first = _box(b"ftyp", brand + bytes(4) + brand + b"mif1") + empty * padding
    listed = list(dict.fromkeys(one for item in items for one in item.properties))
    owned = bytearray(struct.pack(">II", 1 << 24 | 1, len(items)))
    referring = bytearray((1, 0, 0, 0))
    named = bytearray(struct.pack(">II", 1 << 24, len(items)))
    for number, item in enumerate(items, 1):
        used = [0x8000 | listed.index(one) + 1 for one in item.properties]
        owned += struct.pack(f">IB{len(used)}H", number, len(used), *used)
        for kind, others in item.references:
            ends = struct.pack(f">IH{len(others)}I", number, len(others), *others)
            referring += _box(kind, ends)
        named += _box(
            b"infe", struct.pack(">IIH", 3 << 24 | item.hidden, number, 0) + item.kind + b"\0"
        )
    start, meta = 0, b""
    # The second time the length of everything before the pixels is known.
    for _ in range(2):
        located, at = bytearray(struct.pack(">IBBI", 2 << 24, 0x44, 0, len(items))), start
        for number, item in enumerate(items, 1):
            located += struct.pack(">IHHH", number, 0, 0, item.extents)
            located += struct.pack(">II", at, len(item.payload)) * item.extents
            at += len(item.payload)
        boxes = (
            (b"hdlr", bytes(8) + b"pict" + bytes(13)),
            (b"pitm", struct.pack(">II", 1 << 24, primary)),
            (b"iloc", located),
            (b"iinf", named),
            (b"iref", referring),
            (b"iprp", _box(b"ipco", b"".join(_box(*one) for one in listed)) + _box(b"ipma", owned)),
        )
        meta = _box(b"meta", bytes(4) + empty * inner + b"".join(_box(*one) for one in boxes))
        start = len(first) + len(meta) + 8
    return first + meta + _box(b"mdat", b"".join(item.payload for item in items))


def _box(name: bytes, body: bytes | bytearray) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def tiff(
    size: tuple[int, int],
    pixels: bytes | Sequence[bytes],
    tags: Mapping[int, Sequence[int]],
    *,
    order: str = "<",
    big: bool = False,
) -> bytes:
    """A TIFF or BigTIFF of these strips or planes; fractions are two numbers."""
    strips = [pixels] if isinstance(pixels, bytes) else list(pixels)
    entries = {256: [size[0]], 257: [size[1]], 259: [1], 278: [size[1]], **tags}
    entries |= {273: [0] * len(strips), 279: [len(strip) for strip in strips]}
    count, word, inline = ("Q", "Q", 8) if big else ("H", "I", 4)
    head = 16 if big else 8
    body = struct.calcsize(f"<{count}") + len(entries) * (12 + 2 * (inline - 4)) + inline
    packed = {tag: _packed(order, tag, values) for tag, values in entries.items()}
    at = head + body + sum(len(one) for one in packed.values() if len(one) > inline)
    offsets = [at + sum(map(len, strips[:index])) for index in range(len(strips))]
    packed[273] = struct.pack(f"{order}{len(strips)}I", *offsets)
    directory, outside = struct.pack(f"{order}{count}", len(entries)), b""
    for tag in sorted(entries):
        kind, value = _kind(tag), packed[tag]
        number = len(entries[tag]) // (2 if kind == _RATIONAL else 1)
        directory += struct.pack(f"{order}HH{word}", tag, kind, number)
        if len(value) > inline:
            directory += struct.pack(f"{order}{word}", head + body + len(outside))
            outside += value
        else:
            directory += value.ljust(inline, b"\0")
    mark = b"II" if order == "<" else b"MM"
    version = (43, 8, 0, 16) if big else (42, 8)
    start = mark + struct.pack(f"{order}{'HHHQ' if big else 'HI'}", *version)
    return start + directory + bytes(inline) + outside + b"".join(strips)


_SHORT, _LONG, _RATIONAL, _BYTE = 3, 4, 5, 1


def _kind(tag: int) -> int:
    return {273: _LONG, 279: _LONG, 529: _RATIONAL, 532: _RATIONAL, 34675: _BYTE}.get(tag, _SHORT)


def _packed(order: str, tag: int, values: Sequence[int]) -> bytes:
    code = {_SHORT: "H", _LONG: "I", _RATIONAL: "I", _BYTE: "B"}[_kind(tag)]
    return struct.pack(f"{order}{len(values)}{code}", *values)


def premultiplied_jxl(codestream: bytes) -> bytes:
    """A JPEG XL of 16 x 16 pixels with an alpha, which says that colours are multiplied by it.

    The defaults of an alpha of 8 bits (ISO/IEC 18181-1, D.3.6) are replaced by 17 bits with the
    same values, so that what follows keeps its place within bytes.
    """
    bits = "".join(f"{byte:08b}"[::-1] for byte in codestream[2:])
    # After the size, no default and no extra fields: integers, of 8 bits or of a number + 1.
    at = 9 + 2 + 1
    at += (8 if bits[at : at + 2] == "11" else 2) + 1 + 2
    of_sixteen_bits = "0" + "00" + "0" + "11" + "111100" + "00" + "00"
    if bits[at] == "1":
        bits = bits[:at] + of_sixteen_bits.replace("111100", "111000") + "1" + bits[at + 1 :]
    else:
        assert bits[at:].startswith(of_sixteen_bits)
        at += len(of_sixteen_bits)
        bits = bits[:at] + "1" + bits[at + 1 :]
    return codestream[:2] + bytes(
        int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8)
    )
