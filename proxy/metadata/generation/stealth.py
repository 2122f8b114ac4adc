"""Text hidden in the lowest bits of pixels, column by column (stealth PNG info).

A magic text comes first, then the length in bits (32 bits, big-endian), then the text, which may be
compressed with gzip. It is in the alpha channel, or in red, green and blue.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

MAX_BYTES = 1 << 20
"""Of the hidden data, and of the text after inflating."""

_ALPHA = {b"stealth_pnginfo": False, b"stealth_pngcomp": True}
_COLOURS = {b"stealth_rgbinfo": False, b"stealth_rgbcomp": True}
_MAGIC = 15
_RGBA = 4
_HEADER = _MAGIC + 4
_DIGITS = bytes.maketrans(bytes(range(256)), b"01" * 128)


def read(columns: Iterable[bytes], bands: int) -> str | None:
    """Return the hidden text, or None.

    ``columns`` are the pixels of the image from left to right, each from top to bottom, with
    ``bands`` bytes per pixel (3: RGB, 4: RGBA). No more columns are taken than are needed.
    """
    if bands == _RGBA:
        streams = [_Bits(_ALPHA, first=3, step=4), _Bits(_COLOURS, skip_alpha=True)]
    else:
        streams = [_Bits(_COLOURS)]
    for column in columns:
        for stream in list(streams):
            stream.add(column)
            if stream.finished:
                if (text := stream.text()) is not None:
                    return text
                streams.remove(stream)
        if not streams:
            return None
    return None


class _Bits:
    """The bits of one channel, or of three."""

    def __init__(
        self,
        magics: dict[bytes, bool],
        *,
        step: int = 1,
        first: int = 0,
        skip_alpha: bool = False,
    ) -> None:
        self._magics = magics
        self._step, self._first = step, first
        self._skip_alpha = skip_alpha
        self._digits = bytearray()
        self._wanted = _HEADER * 8
        self._compressed: bool | None = None
        self.finished = False

    def add(self, column: bytes) -> None:
        """Take the bits of a column; ``finished`` is set at the end, or without a magic."""
        samples = column[self._first :: self._step]
        if self._skip_alpha:
            opaque = bytearray(samples)
            del opaque[3::4]
            samples = bytes(opaque)
        self._digits += samples.translate(_DIGITS)
        if len(self._digits) < self._wanted:
            return
        if self._compressed is None:
            header = self._bytes(0, _HEADER)
            self._compressed = self._magics.get(header[:_MAGIC])
            length = int.from_bytes(header[_MAGIC:], "big")
            if self._compressed is None or length % 8 or length > MAX_BYTES * 8:
                self._compressed = None
                self.finished = True
                return
            self._wanted += length
        self.finished = len(self._digits) >= self._wanted

    def _bytes(self, start: int, length: int) -> bytes:
        digits = self._digits[start * 8 : (start + length) * 8]
        return int(digits or b"0", 2).to_bytes(length, "big")

    def text(self) -> str | None:
        """Return the text, or None if there is no magic or the data is damaged."""
        if self._compressed is None:
            return None
        hidden = self._bytes(_HEADER, self._wanted // 8 - _HEADER)
        if self._compressed:
            try:
                inflated = zlib.decompressobj(31).decompress(hidden, MAX_BYTES + 1)
            except zlib.error:
                return None
            if len(inflated) > MAX_BYTES:
                return None
            hidden = inflated
        return hidden.decode("utf-8", "replace")
