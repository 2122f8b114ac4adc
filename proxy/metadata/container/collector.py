"""Collects the metadata of one file while a reader walks it, and enforces the limits."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, BinaryIO

from proxy.domain.errors import MetadataTooLarge
from proxy.metadata.container.result import Block, BlockKind, Extent, ImageFacts, TextEntry, Walk

try:
    import brotli
except ImportError:
    brotli = None

BROTLI_VERSION = "" if brotli is None else str(brotli.__version__)
"""Empty without the extra jxl."""
MAX_CHUNKS = 10_000
MAX_METADATA_BYTES = 16 << 20
MAX_INFLATED_CHUNK = 1 << 20
MAX_INFLATED_FILE = 8 << 20
MAX_WARNINGS = 100
_READ_AHEAD = 64 << 10


class Collector:
    """State of one walk: the file, the results so far and what is left of each limit."""

    def __init__(self, file: BinaryIO) -> None:
        """Use a seekable file; its position is changed."""
        self._file = file
        self.size = file.seek(0, 2)
        self.image = ImageFacts()
        self.texts: list[TextEntry] = []
        self.exif: list[TextEntry] = []
        self.xmp: list[TextEntry] = []
        self.iptc: list[TextEntry] = []
        self.blocks: list[Block] = []
        self.other: list[Block] = []
        self.damaged = False
        self.end: int | None = None
        """Offset after the image, if the format marks it."""
        self._warnings: dict[str, None] = {}
        self._ranges: list[Extent] = []
        self._chunks = 0
        self._claimed = 0
        self._inflated = 0
        self._values = 0
        self._window = b""
        self._window_at = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, fewer at its end. Short reads are served by a read-ahead."""
        if length <= 0 or offset >= self.size:
            return b""
        start = offset - self._window_at
        if start >= 0 and start + length <= len(self._window):
            return self._window[start : start + length]
        self._file.seek(offset)
        if length >= _READ_AHEAD:
            return self._file.read(length)
        self._window, self._window_at = self._file.read(_READ_AHEAD), offset
        return self._window[:length]

    def count_chunk(self) -> None:
        """Count a segment, chunk, box or directory.

        Raises:
            MetadataTooLarge: the file has too many of them.
        """
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise MetadataTooLarge(f"The file has more than {MAX_CHUNKS:,} chunks of metadata.")

    def claim(self, offset: int, length: int) -> Extent:
        """Count bytes of the file as metadata; what lies behind its end is left out.

        Raises:
            MetadataTooLarge: the file has too much metadata.
        """
        extent = Extent(offset, max(0, min(length, self.size - offset)))
        self._claimed += extent.length
        if self._claimed > MAX_METADATA_BYTES:
            raise MetadataTooLarge(
                f"The file has more than {MAX_METADATA_BYTES >> 20} MiB of metadata."
            )
        if extent.length:
            self._ranges.append(extent)
        return extent

    def metadata(self, offset: int, length: int, where: str) -> bytes:
        """Claim bytes and return them; fewer than ``length`` if the file is truncated."""
        extent = self.claim(offset, length)
        if extent.length < length:
            self.damage(f"{where} is truncated")
        return self.read(extent.offset, extent.length)

    def count_value(self, length: int) -> None:
        """Count the bytes of a value inside a block: many values may refer to the same bytes.

        Raises:
            MetadataTooLarge: the values are larger than all metadata may be.
        """
        self._values += length
        if self._values > MAX_METADATA_BYTES:
            raise MetadataTooLarge("The values of the metadata are too large.")

    def inflate(self, deflated: bytes, where: str) -> bytes:
        """Return inflated bytes; what could be inflated if the stream is damaged.

        Raises:
            MetadataTooLarge: a chunk, or all chunks of the file, inflate to too much.
        """
        stream = zlib.decompressobj()
        try:
            inflated = stream.decompress(deflated, MAX_INFLATED_CHUNK + 1)
        except zlib.error:
            self.damage(f"{where} cannot be inflated")
            return b""
        return self._bounded(inflated, where, complete=stream.eof)

    def decompress_brotli(self, compressed: bytes, where: str) -> bytes:
        """Return decompressed bytes as `inflate` does; none, with a warning, without Brotli.

        Raises:
            MetadataTooLarge: see `inflate`.
        """
        if brotli is None:
            self.warn(f"{where} is compressed with Brotli; the extra jxl that reads it is missing")
            return b""
        stream = brotli.Decompressor()
        parts: list[bytes] = []
        try:
            # A call may return fewer bytes than the limit although there are more.
            while sum(map(len, parts)) <= MAX_INFLATED_CHUNK:
                part = stream.process(
                    b"" if parts else compressed, output_buffer_limit=MAX_INFLATED_CHUNK
                )
                parts.append(part)
                if not part or stream.is_finished():
                    break
        except brotli.error:
            self.damage(f"{where} cannot be decompressed")
            return b""
        return self._bounded(b"".join(parts), where, complete=stream.is_finished())

    def _bounded(self, inflated: bytes, where: str, *, complete: bool) -> bytes:
        if len(inflated) > MAX_INFLATED_CHUNK:
            raise MetadataTooLarge(f"{where} inflates to more than 1 MiB.")
        self._inflated += len(inflated)
        if self._inflated > MAX_INFLATED_FILE:
            raise MetadataTooLarge("The metadata of the file inflates to more than 8 MiB.")
        if not complete:
            self.damage(f"{where} is truncated")
        return inflated

    def warn(self, text: str) -> None:
        """Add a warning, once."""
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings[text] = None

    def damage(self, text: str) -> None:
        """Add a warning of truncation or of a wrong length."""
        self.damaged = True
        self.warn(text)

    def set_image(self, **facts: Any) -> None:
        """Set facts of the image that are not known yet; a side of 0 is a warning, and unknown."""
        for side in ("width", "height"):
            if facts.get(side) == 0:
                self.warn(f"The header of the image gives 0 as its {side}")
                facts[side] = None
        unknown = {
            name: value for name, value in facts.items() if getattr(self.image, name) is None
        }
        self.image = replace(self.image, **unknown)

    def add_text(self, keyword: str, where: str, text: str, language: str = "") -> None:
        """Add a text of the container."""
        self.texts.append(TextEntry(keyword, where, text, language))

    def add_block(
        self, kind: BlockKind, where: str, content: bytes, ranges: Iterable[Extent] = ()
    ) -> None:
        """Add a block of metadata, unless it is empty."""
        if content:
            self.blocks.append(Block(kind, where, content, tuple(ranges)))

    def add_other(self, where: str, extent: Extent) -> None:
        """Add a segment of metadata that is not read."""
        self.other.append(Block(BlockKind.OTHER, where, b"", (extent,)))

    def result(self, name: str) -> Walk:
        """Return what was collected."""
        return Walk(
            format=name,
            size=self.size,
            image=self.image,
            texts=tuple(self.texts),
            exif=tuple(self.exif),
            xmp=tuple(self.xmp),
            iptc=tuple(self.iptc),
            blocks=tuple(self.blocks),
            ranges=_merged(self._ranges),
            warnings=tuple(self._warnings),
            damaged=self.damaged,
            other=tuple(self.other),
            end=self.end,
        )


def _merged(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Return extents in order, with those that touch or overlap joined."""
    merged: list[Extent] = []
    for offset, length in sorted(extents):
        if merged and offset <= merged[-1].offset + merged[-1].length:
            last = merged[-1]
            merged[-1] = Extent(last.offset, max(last.length, offset + length - last.offset))
        else:
            merged.append(Extent(offset, length))
    return tuple(merged)


def decode_text(raw: bytes) -> str:
    """Decode text of an undeclared encoding: UTF-8 if it is valid, otherwise Windows-1252.

    PNG and JPEG declare Latin-1 or nothing; most tools write UTF-8. Text in Latin-1 with accents is
    practically never valid UTF-8. Windows-1252 has quotation marks and dashes where Latin-1 has
    control characters, which no one writes.
    """
    for encoding in ("utf-8", "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    return raw.decode("latin-1")
