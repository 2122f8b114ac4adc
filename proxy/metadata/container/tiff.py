"""TIFF structures: EXIF blocks, TIFF files and the RAW formats that are based on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from proxy.metadata.container.collector import Collector, decode_text
from proxy.metadata.container.result import BlockKind, Extent, TextEntry

Read = Callable[[int, int], bytes]
"""Returns bytes at an offset from the start of the structure; fewer at its end."""

MAX_DEPTH = 4
_MAX_TEXT = 4 << 20
_MAX_ENTRIES = 200_000
"""Of all directories, which may overlap; a document of ten thousand pages has as many."""
_ASCII, _BYTE, _UNDEFINED = 2, 1, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8, 129: 1}
_BIG = 43
_MAGICS = (42, _BIG, 0x55, 0x4F52, 0x5352)
"""TIFF, BigTIFF, RW2, and the two of ORF."""

_NAMES = {
    0x010D: "DocumentName",
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x0132: "ModifyDate",
    0x013B: "Artist",
    0x013C: "HostComputer",
    0x8298: "Copyright",
    0x8824: "SpectralSensitivity",
    0x9003: "DateTimeOriginal",
    0x9004: "CreateDate",
    0x927C: "MakerNote",
    0x9286: "UserComment",
    0x9C9B: "XPTitle",
    0x9C9C: "XPComment",
    0x9C9D: "XPAuthor",
    0x9C9E: "XPKeywords",
    0x9C9F: "XPSubject",
    0xA420: "ImageUniqueID",
    0xA430: "OwnerName",
    0xA431: "SerialNumber",
    0xA433: "LensMake",
    0xA434: "LensModel",
    0xA435: "LensSerialNumber",
    0xC614: "UniqueCameraModel",
}
_USER_COMMENT, _MAKER_NOTE = 0x9286, 0x927C
_XP = range(0x9C9B, 0x9CA0)
_DIRECTORIES = {0x8769: "ExifIFD", 0x8825: "GPS", 0xA005: "InteropIFD", 0x014A: "SubIFD"}
_BLOCKS = {
    0x02BC: BlockKind.XMP,
    0x83BB: BlockKind.IPTC,
    0x8649: BlockKind.PHOTOSHOP,
    0x8773: BlockKind.ICC,
    0xCD41: BlockKind.C2PA,
}
_PIXELS = frozenset({0x935C, 0xC68C, 0xB4C3, 0x002E, 0x0127, 0x0111, 0x0117, 0x0144, 0x0145})
"""Layers of Photoshop, the original of a DNG, the pixels of Hasselblad, the embedded JPEGs of RW2,
and the tables of strips and tiles: not metadata."""
_PHASE_ONE = re.compile(rb"IIII.waR|MMMMRaw.", re.DOTALL)
"""Beginning of the maker notes of Phase One, which contain the pixels."""
_WIDTH, _HEIGHT, _DEPTH, _SAMPLES, _ORIENTATION = 0x0100, 0x0101, 0x0102, 0x0115, 0x0112
_SUBFILE, _EXTRA, _DNG = 0x00FE, 0x0152, 0xC612
_REDUCED = 1
_PRINTABLE = re.compile(rb"[\t\n\r -~]*")


class _Entry(NamedTuple):
    tag: int
    type: int
    items: int
    at: int
    """Offset of the value from the start of the structure."""
    length: int
    """Bytes of the value."""
    inline: bool


@dataclass(frozen=True, slots=True)
class _Structure:
    """A TIFF structure: how to read it, and the widths of its fields."""

    read: Read
    order: Literal["little", "big"]
    big: bool

    def number(self, at: int, length: int) -> int | None:
        """Return an unsigned integer, or None at the end of the structure."""
        raw = self.read(at, length)
        return int.from_bytes(raw, self.order) if len(raw) == length else None


def read_file(collector: Collector) -> bool:
    """Read a TIFF file; directories and their values are metadata. Return whether it is a DNG."""
    return _Reader(collector, collector.read, "TIFF", own_ranges=True).run()


def read_block(collector: Collector, content: bytes, where: str) -> None:
    """Read an EXIF block; its bytes are claimed by the caller."""
    start = 6 if content.startswith(b"Exif\0\0") else 0

    def read(offset: int, length: int) -> bytes:
        return content[start + offset : start + offset + length]

    _Reader(collector, read, where, own_ranges=False).run()


class _Reader:
    """Walks the directories of one structure. Each is read once, so loops end."""

    def __init__(self, collector: Collector, read: Read, where: str, *, own_ranges: bool) -> None:
        self._collector = collector
        self._read = read
        self._where = where
        self._own_ranges = own_ranges
        self._seen: set[int] = set()
        self._pages = 0
        self._entries_left = _MAX_ENTRIES
        self._dng = False

    def run(self) -> bool:
        """Walk the chain of directories; return whether the file is a DNG."""
        head = self._read(0, 16)
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
        magic = int.from_bytes(head[2:4], order)
        if head[:2] not in (b"II", b"MM") or magic not in _MAGICS or len(head) < 8:  # noqa: PLR2004
            self._collector.damage(f"{self._where} has no TIFF header")
            return False
        big = magic == _BIG
        self._claim(0, 16 if big else 8)
        structure = _Structure(self._read, order, big)
        at = structure.number(8, 8) if big else structure.number(4, 4)
        number = 0
        while at:
            at = self._directory(structure, at, f"IFD{number}", 0)
            number += 1
        if self._own_ranges:
            self._collector.set_image(pages=max(1, self._pages))
        return self._dng

    def _claim(self, at: int, length: int) -> None:
        if self._own_ranges:
            self._collector.claim(at, length)

    def _directory(self, tiff: _Structure, at: int, name: str, depth: int) -> int | None:
        """Read a directory and those it refers to; return the offset of the next one."""
        if at in self._seen:
            self._collector.warn(f"{self._where}: the directories form a loop")
            return None
        self._seen.add(at)
        self._collector.count_chunk()
        width = 8 if tiff.big else 2
        count = tiff.number(at, width)
        if not count:
            # Writers that know no second directory leave anything in its place.
            report = self._collector.warn if name == "IFD1" else self._collector.damage
            report(f"{self._where}: {name} is empty or outside")
            return None
        size = 20 if tiff.big else 12
        # A directory of a damaged file may declare any number of entries.
        table = self._read(at + width, min(count, 0xFFFF, self._entries_left) * size)
        self._entries_left -= len(table) // size
        if len(table) < count * size:
            self._collector.damage(f"{self._where}: {name} is truncated")
        self._claim(at, width + len(table) + (8 if tiff.big else 4))
        entries = list(self._entries(tiff, table, at + width, name))
        if name.startswith(("IFD", "SubIFD")) and depth <= 1:
            self._facts(tiff, entries, name)
        for entry in entries:
            self._value(tiff, entry, name, depth)
        if len(table) < count * size:
            return None
        return tiff.number(at + width + count * size, 8 if tiff.big else 4)

    def _entries(self, tiff: _Structure, table: bytes, at: int, name: str) -> Iterator[_Entry]:
        size, inline = (20, 8) if tiff.big else (12, 4)
        number = inline  # bytes of a count and of an offset
        for start in range(0, len(table) - size + 1, size):
            tag = int.from_bytes(table[start : start + 2], tiff.order)
            kind = int.from_bytes(table[start + 2 : start + 4], tiff.order)
            count = int.from_bytes(table[start + 4 : start + 4 + number], tiff.order)
            if kind not in _SIZES:
                self._collector.warn(f"{self._where}: {name} has a value of an unknown type")
                continue
            length = _SIZES[kind] * count
            value = start + 4 + number
            if length <= inline:
                yield _Entry(tag, kind, count, at + value, length, inline=True)
                continue
            offset = int.from_bytes(table[value : value + inline], tiff.order)
            yield _Entry(tag, kind, count, offset, length, inline=False)

    def _value(self, tiff: _Structure, entry: _Entry, name: str, depth: int) -> None:
        if entry.tag in _DIRECTORIES:
            self._nested(tiff, entry, depth)
            return
        if entry.tag in _PIXELS or self._has_pixels(entry):
            return
        if entry.tag in _BLOCKS or entry.type == _ASCII or entry.tag in _NAMES:
            self._collector.count_value(min(entry.length, self._collector.size))
        if not entry.inline:
            if len(self._read(entry.at + entry.length - 1, 1)) == 0:
                self._collector.damage(
                    f"{self._where}: the value of tag 0x{entry.tag:04x} in {name} is outside"
                )
                return
            self._claim(entry.at, entry.length)
        if entry.tag == _DNG:
            self._dng = True
        if kind := _BLOCKS.get(entry.tag):
            content = self._read(entry.at, entry.length)
            extent = [Extent(entry.at, entry.length)] if self._own_ranges else []
            self._collector.add_block(kind, f"{self._where} {name}", content, extent)
        elif text := self._text(tiff, entry):
            tag = _NAMES.get(entry.tag, f"0x{entry.tag:04x}")
            self._collector.exif.append(TextEntry(tag, name, text))

    def _has_pixels(self, entry: _Entry) -> bool:
        is_note = self._own_ranges and entry.tag == _MAKER_NOTE
        return is_note and bool(_PHASE_ONE.match(self._read(entry.at, 8)))

    def _text(self, tiff: _Structure, entry: _Entry) -> str:
        if entry.length > _MAX_TEXT:
            self._collector.warn(f"{self._where}: a text of more than 4 MiB is not read")
            return ""
        if entry.tag == _USER_COMMENT:
            return decode_user_comment(self._read(entry.at, entry.length), tiff.order)
        if entry.tag in _XP and entry.type in (_BYTE, _UNDEFINED):
            raw = self._read(entry.at, entry.length & ~1)
            return raw.decode("utf-16-le", "replace").rstrip("\0")
        if entry.type == _ASCII or (entry.tag == _MAKER_NOTE and entry.length <= 64):  # noqa: PLR2004
            raw = self._read(entry.at, entry.length).rstrip(b"\0 ")
            # A short maker note is text if a generator wrote it.
            return "" if entry.type != _ASCII and not raw.isascii() else decode_text(raw)
        return ""

    def _nested(self, tiff: _Structure, entry: _Entry, depth: int) -> None:
        if depth >= MAX_DEPTH:
            self._collector.warn(f"{self._where}: directories are nested too deeply")
            return
        name = _DIRECTORIES[entry.tag]
        size = _SIZES[entry.type]
        for index in range(min(entry.items, 100)):
            if at := tiff.number(entry.at + index * size, size):
                label = f"{name}{index}" if name == "SubIFD" else name
                self._directory(tiff, at, label, depth + 1)

    def _facts(self, tiff: _Structure, entries: list[_Entry], name: str) -> None:
        """Set size and orientation from the first directory that is not a thumbnail's."""
        values = {
            entry.tag: tiff.number(entry.at, _SIZES[entry.type])
            for entry in entries
            if entry.tag in (_WIDTH, _HEIGHT, _DEPTH, _SAMPLES, _ORIENTATION, _SUBFILE)
            and _SIZES[entry.type] <= 8  # noqa: PLR2004 - integers
        }
        if name == "IFD0" and values.get(_ORIENTATION) in range(1, 9):
            self._collector.set_image(orientation=values[_ORIENTATION])
        reduced = bool((values.get(_SUBFILE) or 0) & _REDUCED)
        if not self._own_ranges or reduced:
            return
        self._pages += name.startswith("IFD")
        if values.get(_WIDTH) and values.get(_HEIGHT):
            self._collector.set_image(
                width=values[_WIDTH],
                height=values[_HEIGHT],
                bit_depth=values.get(_DEPTH),
                channels=values.get(_SAMPLES),
                has_alpha=any(entry.tag == _EXTRA for entry in entries),
            )


def decode_user_comment(raw: bytes, order: Literal["little", "big"]) -> str:
    """Decode EXIF UserComment: an 8-byte character code, then text.

    Writers disagree on the byte order of UTF-16, so ``order`` (the structure's) counts only if the
    text itself does not show it.
    """
    code, text = raw[:8], raw[8:]
    if code == b"UNICODE\0":
        return _decode_utf16(text, order).rstrip("\0 ")
    if code.startswith(b"JIS\0"):
        return text.decode("iso2022_jp", "replace").rstrip("\0 ")
    if code.rstrip(b"\0 ") in (b"", b"ASCII", b"ascii"):
        return decode_text(text.strip(b"\0").rstrip())
    return decode_text(raw.rstrip(b"\0 "))


def _decode_utf16(raw: bytes, order: Literal["little", "big"]) -> str:
    if raw[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return raw.decode("utf-16", "replace")
    if _PRINTABLE.fullmatch(raw.rstrip(b"\0")):
        return raw.rstrip(b"\0").decode("ascii")  # written without UTF-16 after all
    # High bytes repeat, as a text uses few scripts.
    high, low = len(set(raw[:2000:2])), len(set(raw[1:2000:2]))
    big = order == "big" if high == low else high < low
    return raw[: len(raw) & ~1].decode("utf-16-be" if big else "utf-16-le", "replace")
