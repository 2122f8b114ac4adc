"""Builds small image files byte by byte, with the metadata that a test needs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO

from proxy.metadata.container.result import Walk
from proxy.metadata.container.walk import walk

Value = bytes | str | int
"""Of an EXIF tag: UNDEFINED, ASCII, LONG."""

PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF></x:xmpmeta>'
)


def walked(content: bytes) -> Walk:
    return walk(BytesIO(content))


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """Return a PNG chunk with its checksum."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def text_chunk(keyword: str, text: str) -> bytes:
    """Return tEXt if the text is Latin-1, otherwise iTXt."""
    try:
        return chunk(b"tEXt", f"{keyword}\0{text}".encode("latin-1"))
    except UnicodeEncodeError:
        return chunk(b"iTXt", keyword.encode() + b"\0\0\0\0\0" + text.encode())


def png(*chunks: bytes, after: Sequence[bytes] = (), width: int = 2, height: int = 3) -> bytes:
    """Return a PNG with chunks before the pixels, and others ``after`` them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((3 * width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), *after, chunk(b"IEND"))
    )


def png_with_texts(texts: Mapping[str, str]) -> bytes:
    return png(*(text_chunk(keyword, text) for keyword, text in texts.items()))


def segment(marker: int, content: bytes) -> bytes:
    """Return a JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*segments: bytes, end: bytes = b"\xff\xd9") -> bytes:
    """Return a JPEG with a frame header of 5 x 4 pixels and no decodable pixels."""
    frame = segment(0xC0, struct.pack(">BHHB", 8, 4, 5, 3) + bytes(9))
    scan = segment(0xDA, bytes(10)) + b"\x12\x34"
    return b"\xff\xd8" + b"".join(segments) + frame + scan + end


def tiff(
    tags: Mapping[int, Value], exif: Mapping[int, Value] | None = None, *, order: str = "<"
) -> bytes:
    """Return a TIFF structure with the tags of IFD0 and of its EXIF directory."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    size = 8 + _directory_size({**tags, **({0x8769: 0} if exif else {})})
    inner = _directory(exif, size, order) if exif else b""
    return head + _directory({**tags, **({0x8769: size} if exif else {})}, 8, order) + inner


def _directory_size(tags: Mapping[int, Value]) -> int:
    return (
        6
        + 12 * len(tags)
        + sum(len(raw) for _, raw in map(_encoded, tags.values()) if len(raw) > 4)
    )


def _encoded(value: Value) -> tuple[int, bytes]:
    if isinstance(value, str):
        return 2, value.encode() + b"\0"
    return (4, b"") if isinstance(value, int) else (7, value)


def _directory(tags: Mapping[int, Value], at: int, order: str) -> bytes:
    table = struct.pack(f"{order}H", len(tags))
    values = b""
    start = at + 6 + 12 * len(tags)
    for tag, value in sorted(tags.items()):
        kind, raw = _encoded(value)
        if isinstance(value, int):
            table += struct.pack(f"{order}HHII", tag, 4, 1, value)
        elif len(raw) <= 4:
            table += struct.pack(f"{order}HHI4s", tag, kind, len(raw), raw)
        else:
            table += struct.pack(f"{order}HHII", tag, kind, len(raw), start + len(values))
            values += raw
    return table + bytes(4) + values


def user_comment(text: str, encoding: str = "utf-16-be") -> bytes:
    """Return the value of EXIF UserComment."""
    code = b"UNICODE\0" if encoding.startswith("utf-16") else b"ASCII\0\0\0"
    return code + text.encode(encoding)


def jpeg_with_comment(text: str) -> bytes:
    """Return a JPEG with an EXIF UserComment."""
    exif = tiff({0x0131: "x"}, {0x9286: user_comment(text)})
    return jpeg(segment(0xE1, b"Exif\0\0" + exif))


def jpeg_with_xmp(inner: str) -> bytes:
    """Return a JPEG with an XMP packet that holds RDF descriptions."""
    packet = PACKET.format(inner).encode()
    return jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet))


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WebP with an extended header of 7 x 6 pixels."""
    extended = (b"VP8X", bytes(4) + (6).to_bytes(3, "little") + (5).to_bytes(3, "little"))
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        for kind, content in (extended, *chunks)
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def box(kind: bytes, *contents: bytes) -> bytes:
    """Return a box of an ISO base media file."""
    content = b"".join(contents)
    return struct.pack(">I", len(content) + 8) + kind + content


def gif(*extensions: bytes) -> bytes:
    """Return a GIF of one pixel with extensions before its image."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return head + b"".join(extensions) + image + b"\x3b"


def sub_blocks(content: bytes) -> bytes:
    """Split bytes into the sub-blocks of a GIF."""
    parts = [content[at : at + 255] for at in range(0, len(content), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
