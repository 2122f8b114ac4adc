"""Pictures in many copies that are the same pixels and yet not the same file.

Smartserve recognises equal content, and gives equal pixels of one original from its store. A number
in a comment makes each copy another original, so that each has to be rendered; to the decoder it
is the same work.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.servers import Unmeasurable
from tests.serving import SAMPLES

_PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "photos"
_PNG_START = 8 + 25
"""Signature and IHDR."""
_JPEG_START = 2
"""SOI."""


def kodak() -> tuple[Path, ...]:
    """The six Kodak photographs, or those among the bundled samples."""
    for folder in (_PHOTOS, SAMPLES):
        if found := tuple(sorted(folder.glob("kodak-*"))):
            return found
    raise Unmeasurable("there are no photographs to render")


def copies(photos: Sequence[Path], folder: Path, *, count: int) -> list[Path]:
    """So many numbered copies, the photographs by turns."""
    contents = [photo.read_bytes() for photo in photos]
    made = []
    for number in range(count):
        photo = photos[number % len(photos)]
        path = folder / f"{number:05d}-{photo.name}"
        path.write_bytes(_numbered(contents[number % len(photos)], number))
        made.append(path)
    return made


def _numbered(content: bytes, number: int) -> bytes:
    """The same picture with a number in a comment."""
    text = f"copy {number}".encode()
    if content.startswith(b"\x89PNG"):
        kind_and_text = b"tEXtComment\0" + text
        checksum = struct.pack(">I", zlib.crc32(kind_and_text))
        comment = struct.pack(">I", len(kind_and_text) - 4) + kind_and_text + checksum
        return content[:_PNG_START] + comment + content[_PNG_START:]
    comment = b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text
    return content[:_JPEG_START] + comment + content[_JPEG_START:]
