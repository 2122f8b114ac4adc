"""Inserts text and EXIF into PNG, JPEG and WebP files without encoding their pixels again."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

EXIF_PREFIX = b"Exif\0\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_SOI, _APP0, _APP1, _SOS, _EOI = 0xD8, 0xE0, 0xE1, 0xDA, 0xD9
_END = b"\xff\xd9"
"""EOI; cannot occur in image data."""
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
"""Markers of JPEG without a length."""
_MAX_INFLATED = 1 << 20
"""As for readers: a longer compressed text is none that this program wrote."""
_WEBP_EXIF, _WEBP_ALPHA = 0x08, 0x10


class _Piece(NamedTuple):
    """A chunk or segment, as the range of the file that it and its header take."""

    kind: bytes
    start: int
    end: int


class Own(Protocol):
    """Recognises what an earlier run of this program wrote, and nobody has changed since."""

    def is_own_text(self, keyword: str, text: bytes) -> bool:
        """Return whether a text chunk is to be replaced; ``text`` is inflated."""

    def is_own_exif(self, tiff: bytes) -> bool:
        """Return whether a TIFF structure is to be replaced, as a whole."""


def with_metadata(
    content: bytes,
    texts: Mapping[str, str],
    exif: bytes,
    *,
    own: Own | None = None,
    always: str = "",
) -> bytes:
    """Return the file with text chunks (PNG only) and a TIFF structure, unless that is empty.

    Nothing of another program is removed: keywords that a PNG has are not written a second time,
    except for ``always``, whose chunk comes first; and its EXIF data stays. Only what is ``own`` is
    replaced.

    Raises:
        ValueError: it is no such file or damaged, or a JPEG or WebP has other EXIF data.
    """
    try:
        if content.startswith(_PNG):
            return _into_png(content, texts, exif, own, always)
        if content.startswith(b"\xff\xd8"):
            return _into_jpeg(content, exif, own)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _into_webp(content, exif, own)
    except (IndexError, struct.error):
        raise ValueError("the file is damaged") from None
    raise ValueError("the file is not PNG, JPEG or WebP")


def _into_png(
    content: bytes, texts: Mapping[str, str], exif: bytes, own: Own | None, always: str
) -> bytes:
    pieces = list(_chunks(content, len(_PNG), len(content), ">I4s", trailer=4))
    if not pieces or (pieces[0].kind, pieces[-1].kind) != (b"IHDR", b"IEND"):
        raise IndexError
    head, *rest = pieces
    if own is not None:
        rest = [one for one in rest if not _is_own(content, one, own)]
    found = {_text(content, one)[0] for one in rest if one.kind in _TEXT_CHUNKS}
    # One of another program may have that keyword; readers take the first that they can parse.
    found.discard(always)
    new = [_text_chunk(key, text) for key, text in texts.items() if key not in found]
    if exif and not any(one.kind == b"eXIf" for one in rest):
        new.append(_png_chunk(b"eXIf", exif))
    old = (content[one.start : one.end] for one in rest)
    # Text before the image data is also found by readers that stop there.
    return b"".join((content[: head.end], *new, *old, content[pieces[-1].end :]))


def _is_own(content: bytes, piece: _Piece, own: Own) -> bool:
    if piece.kind == b"eXIf":
        return own.is_own_exif(content[piece.start + 8 : piece.end - 4])
    if piece.kind not in _TEXT_CHUNKS:
        return False
    keyword, text = _text(content, piece)
    return text is not None and own.is_own_text(keyword, text)


def _text(content: bytes, piece: _Piece) -> tuple[str, bytes | None]:
    """Return the keyword of a text chunk, and its text unless that cannot be read."""
    keyword, _, text = content[piece.start + 8 : piece.end - 4].partition(b"\0")
    compressed = piece.kind == b"zTXt"
    if compressed:
        text = text[1:]
    elif piece.kind == b"iTXt":
        # Language and translated keyword stand before the text.
        compressed, text = text[:1] == b"\1", text[2:].partition(b"\0")[2].partition(b"\0")[2]
    return keyword.decode("latin-1"), _inflated(text) if compressed else text


def _inflated(deflated: bytes) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(deflated, _MAX_INFLATED)
    except zlib.error:
        return None
    return inflated if stream.eof else None


def _text_chunk(keyword: str, text: str) -> bytes:
    # A NUL would end the text.
    text, key = text.replace("\0", ""), keyword.encode("latin-1")
    if _is_latin(text):
        return _png_chunk(b"tEXt", key + b"\0" + text.encode("latin-1"))
    # Not compressed, no language, no translated keyword.
    return _png_chunk(b"iTXt", key + b"\0" * 5 + text.encode("utf-8", "replace"))


def _is_latin(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("cp1252")  # fails for control characters: readers take them for quotes
        text.encode("latin-1").decode()
    except UnicodeDecodeError:
        return True
    except UnicodeEncodeError:
        pass
    # Not Latin-1, or readers that expect UTF-8 in tEXt, as many tools write it, would misread it.
    return False


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _chunks(
    content: bytes, start: int, end: int, layout: str, *, trailer: int = 0, even: bool = False
) -> Iterator[_Piece]:
    """Yield the chunks of PNG or RIFF; in PNG up to IEND."""
    while start < end:
        first, second = struct.unpack_from(layout, content, start)
        kind, length = (second, first) if isinstance(second, bytes) else (first, second)
        stop = start + 8 + length + (length & 1 if even else 0) + trailer
        if stop > end:
            raise IndexError
        yield _Piece(kind, start, stop)
        start = stop
        if kind == b"IEND":
            break


def _into_jpeg(content: bytes, exif: bytes, own: Own | None) -> bytes:
    segments = list(_segments(content))
    if not exif:
        return content
    old = {one for one in segments if _is_exif(content, one)}
    _require_own((content[one.start : one.end] for one in old), own)
    kept = [one for one in segments if one not in old]
    body = EXIF_PREFIX + exif
    new = struct.pack(">BBH", 0xFF, _APP1, len(body) + 2) + body
    # JFIF demands that its segment is the first one; EXIF is content with the second place.
    first = kept[0].end if kept and kept[0].kind[0] == _APP0 else 2
    parts = [content[one.start : one.end] for one in kept]
    parts.insert(int(first != 2), new)  # noqa: PLR2004 - the length of SOI
    return b"".join((content[:2], *parts))


def _segments(content: bytes) -> Iterator[_Piece]:
    """Yield the segments before the image data, then the rest of the file as one."""
    at = 2
    while True:
        start = at
        if content[at] != 0xFF:  # noqa: PLR2004 - the first byte of every marker
            raise IndexError
        while content[at] == 0xFF:  # noqa: PLR2004 - fill bytes
            at += 1
        marker, at = content[at], at + 1
        if marker in {_SOS, _EOI}:
            if _END not in content[start:]:
                raise IndexError
            yield _Piece(bytes((marker,)), start, len(content))
            return
        if marker not in _STANDALONE:
            at += int(struct.unpack_from(">H", content, at)[0])
        if at > len(content):
            raise IndexError
        yield _Piece(bytes((marker,)), start, at)


def _is_exif(content: bytes, piece: _Piece) -> bool:
    return piece.kind[0] == _APP1 and EXIF_PREFIX in content[piece.start : piece.start + 20]


def _into_webp(content: bytes, exif: bytes, own: Own | None) -> bytes:
    if not exif:
        return content
    end = 8 + int(struct.unpack_from("<I", content, 4)[0])
    if end > len(content):
        raise IndexError
    pieces = list(_chunks(content, 12, end, "<4sI", even=True))
    old = {one for one in pieces if one.kind == b"EXIF"}
    _require_own((content[one.start + 8 : one.end] for one in old), own)
    kept = [one for one in pieces if one not in old]
    chunks = [(one.kind, content[one.start : one.end]) for one in kept]
    if chunks[0][0] != b"VP8X":
        # Only the extended format may have metadata.
        chunks.insert(0, (b"VP8X", _extended(content, kept[0])))
    header = bytearray(chunks[0][1])
    header[8] |= _WEBP_EXIF
    chunks[0] = (b"VP8X", bytes(header))
    # The order of the specification: EXIF before XMP.
    at = next((n for n, (kind, _) in enumerate(chunks) if kind == b"XMP "), len(chunks))
    padded = exif + b"\0" * (len(exif) & 1)
    chunks.insert(at, (b"EXIF", struct.pack("<4sI", b"EXIF", len(exif)) + padded))
    body = b"WEBP" + b"".join(part for _, part in chunks)
    return struct.pack("<4sI", b"RIFF", len(body)) + body + content[end:]


def _extended(content: bytes, image: _Piece) -> bytes:
    """Return the header of the extended format for a file with one image chunk."""
    body = content[image.start + 8 : image.end]
    flags = 0
    if image.kind == b"VP8L":
        bits = int(struct.unpack_from("<I", body, 1)[0])
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = _WEBP_ALPHA if bits >> 28 & 1 else 0
    elif image.kind == b"VP8 ":
        width, height = (int(side) & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
    else:
        raise IndexError
    if not width or not height:
        raise IndexError
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return struct.pack("<4sII", b"VP8X", 10, flags) + sizes


def _require_own(found: Iterable[bytes], own: Own | None) -> None:
    """Raise ValueError if EXIF data, possibly after the prefix of JPEG, is of another program."""
    for one in found:
        # Some programs write the prefix into WebP too.
        tiff = one.partition(EXIF_PREFIX)[2] or one
        if own is None or not own.is_own_exif(tiff):
            raise ValueError(
                "the file has EXIF data of another program, which would be lost. "
                "Convert it to PNG, or keep the metadata in a sidecar file."
            )
