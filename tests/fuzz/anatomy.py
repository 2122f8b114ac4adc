"""The structure of image files: the fields that parsers trust, and blocks to move."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from proxy.domain.formats import SNIFF_BYTES, sniff

Order = Literal["big", "little"]

_MOST_BLOCKS = 2_000
"""Limit of fields and blocks of one file; the rest of a mutant is not parsed."""
_PNG_SIGNATURE = 8
_BOXES = (b"meta", b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iinf")
_FULL_BOXES = (b"meta", b"iinf")
_STANDALONE = (0x01, *range(0xD0, 0xDA))
_SOF = (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA)
_SOS = 0xDA


@dataclass(frozen=True, slots=True)
class Field:
    """A number in a file: a length, a side, an offset, a type."""

    at: int
    size: int
    """In bytes."""
    order: Order


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a file with a meaning of its own: a chunk, a segment, a frame."""

    start: int
    stop: int


Bone = Field | Block


@dataclass(frozen=True, slots=True)
class FileStructure:
    """All fields and blocks found in a file."""

    fields: tuple[Field, ...]
    blocks: tuple[Block, ...]


def parse_structure(body: bytes) -> FileStructure:
    """Return the structure of a file by its first bytes; empty for an unknown type."""
    walk = _WALKS.get(sniff(body[:SNIFF_BYTES]) or "", _nothing)
    fields: list[Field] = []
    blocks: list[Block] = []
    for bone in walk(body):
        if isinstance(bone, Block):
            blocks.append(bone)
        elif bone.at + bone.size <= len(body):
            fields.append(bone)
        if len(blocks) >= _MOST_BLOCKS:
            break
    return FileStructure(tuple(fields), tuple(blocks))


def repaired(body: bytes) -> bytes:
    """Return the file with correct checksums and total length, so that parsers continue."""
    match sniff(body[:SNIFF_BYTES]):
        case "png":
            return _with_checksums(body)
        case "webp":
            return body[:4] + struct.pack("<I", len(body) - 8) + body[8:]
        case _:
            return body


def _nothing(_body: bytes) -> Iterator[Bone]:
    yield from ()


def _fields(at: int, sizes: str, order: Order) -> Iterator[Field]:
    """Yield consecutive fields; ``sizes`` has a digit for each."""
    for size in map(int, sizes):
        yield Field(at, size, order)
        at += size


def _png_chunks(body: bytes) -> Iterator[Block]:
    at = _PNG_SIGNATURE
    while at + 12 <= len(body):
        stop = at + 12 + int.from_bytes(body[at : at + 4], "big")
        yield Block(at, min(stop, len(body)))
        at = stop


def _png(body: bytes) -> Iterator[Bone]:
    for chunk in _png_chunks(body):
        yield chunk
        is_header = body[chunk.start + 4 : chunk.start + 8] == b"IHDR"
        yield Field(chunk.start, 4, "big")
        yield from _fields(chunk.start + 8, "4411111" if is_header else "44", "big")


def _with_checksums(body: bytes) -> bytes:
    made = bytearray(body)
    for chunk in _png_chunks(body):
        checksum = zlib.crc32(made[chunk.start + 4 : chunk.stop - 4])
        made[chunk.stop - 4 : chunk.stop] = struct.pack(">I", checksum)
    return bytes(made)


def _jpeg(body: bytes) -> Iterator[Bone]:
    at = 2
    while at + 4 <= len(body) and body[at] == 0xFF:
        marker = body[at + 1]
        length = 0 if marker in _STANDALONE else int.from_bytes(body[at + 2 : at + 4], "big")
        stop = min(at + 2 + length, len(body))
        yield Block(at, stop)
        yield Field(at + 1, 1, "big")
        yield from _jpeg_fields(at, marker)
        at = stop
        if marker == _SOS:
            at = _scan_end(body, at)
            yield Block(stop, at)


def _jpeg_fields(at: int, marker: int) -> Iterator[Field]:
    if marker in _SOF:
        yield from _fields(at + 2, "2122" + "1" * 10, "big")
    elif marker == _SOS:
        yield from _fields(at + 2, "2" + "1" * 10, "big")
    elif marker not in _STANDALONE:
        yield from _fields(at + 2, "2" + "1" * 17, "big")


def _scan_end(body: bytes, at: int) -> int:
    """Return the offset of the next marker that ends entropy-coded data."""
    while (at := body.find(b"\xff", at)) >= 0:
        if body[at + 1 : at + 2] not in (b"\0", *(bytes([code]) for code in range(0xD0, 0xD8))):
            return at
        at += 1
    return len(body)


def _gif(body: bytes) -> Iterator[Bone]:
    yield from _fields(6, "22111", "little")
    at = 13 + _palette_bytes(body, 10)
    while at < len(body) and body[at] in b"\x21\x2c":
        start, is_frame = at, body[at] == 0x2C
        yield from _fields(at + 1, "2222" + "11" if is_frame else "11121", "little")
        at = at + 10 + _palette_bytes(body, at + 9) + 1 if is_frame else at + 2
        at = _sub_blocks_end(body, at)
        yield Block(start, at)


def _palette_bytes(body: bytes, at: int) -> int:
    flags = body[at] if at < len(body) else 0
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks_end(body: bytes, at: int) -> int:
    while at < len(body) and body[at]:
        at += 1 + body[at]
    return min(at + 1, len(body))


def _webp(body: bytes) -> Iterator[Bone]:
    yield Field(4, 4, "little")
    yield from _riff_chunks(body, 12, len(body))


def _riff_chunks(body: bytes, at: int, stop: int) -> Iterator[Bone]:
    while at + 8 <= stop:
        name, size = body[at : at + 4], int.from_bytes(body[at + 4 : at + 8], "little")
        end = min(at + 8 + size + size % 2, stop)
        yield Block(at, end)
        yield Field(at + 4, 4, "little")
        yield from _fields(at + 8, _WEBP_FIELDS.get(name, "44"), "little")
        if name == b"ANMF":
            yield from _riff_chunks(body, at + 24, end)
        at = end


_WEBP_FIELDS: Mapping[bytes, str] = MappingProxyType(
    {b"VP8X": "1333", b"ANIM": "42", b"ANMF": "333331", b"VP8 ": "3322", b"VP8L": "14"}
)


def _heif(body: bytes) -> Iterator[Bone]:
    yield from _boxes(body, 0, len(body))


def _boxes(body: bytes, at: int, stop: int) -> Iterator[Bone]:
    while at + 8 <= stop:
        size, name = int.from_bytes(body[at : at + 4], "big"), body[at + 4 : at + 8]
        end = min(at + max(size, 8), stop) if size else stop
        yield Block(at, end)
        yield Field(at, 4, "big")
        yield from _fields(at + 8, _box_fields(name, end - at - 8), "big")
        if name in _BOXES:
            yield from _boxes(body, at + 8 + 4 * (name in _FULL_BOXES), end)
        at = end


def _box_fields(name: bytes, room: int) -> str:
    sizes = "4" * 3 if name == b"ispe" else "2" * 16
    return sizes[: max(0, room) // int(sizes[0])]


def _tiff(body: bytes) -> Iterator[Bone]:
    order: Order = "little" if body[:2] == b"II" else "big"
    yield Field(4, 4, order)
    at = int.from_bytes(body[4:8], order)
    seen: set[int] = set()
    while 8 <= at <= len(body) - 2 and at not in seen:
        seen.add(at)
        count = int.from_bytes(body[at : at + 2], order)
        stop = min(at + 2 + 12 * count, len(body))
        yield Field(at, 2, order)
        for entry in range(at + 2, stop - 11, 12):
            yield Block(entry, entry + 12)
            yield from _fields(entry, "2244", order)
        yield Field(stop, 4, order)
        at = int.from_bytes(body[stop : stop + 4], order)


_WALKS: Mapping[str, Callable[[bytes], Iterator[Bone]]] = MappingProxyType(
    {
        "png": _png,
        "jpeg": _jpeg,
        "gif": _gif,
        "webp": _webp,
        "avif": _heif,
        "heic": _heif,
        "jp2": _heif,
        "tiff": _tiff,
    }
)
