"""The trailer of a rendition's file: written last, it says whether the file is whole and whose.

48 bytes behind the body, little endian: magic (8), length of the body (8), xxh3_128 of the body
(16), digest of the variant (16).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_LAYOUT = struct.Struct("<8sQ16s16s")
_MAGIC = b"smrtrnd1"

SIZE = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class FileTrailer:
    """What the end of a file says of what is before it."""

    length: int
    checksum: bytes
    digest: bytes

    def pack(self) -> bytes:
        """The trailer as it stands in the file."""
        return _LAYOUT.pack(_MAGIC, self.length, self.checksum, self.digest)


def parse(raw: bytes) -> FileTrailer | None:
    """Read a trailer, or None where these bytes are not one."""
    if len(raw) != SIZE:
        return None
    magic, length, checksum, digest = _LAYOUT.unpack(raw)
    return FileTrailer(length, checksum, digest) if magic == _MAGIC else None
