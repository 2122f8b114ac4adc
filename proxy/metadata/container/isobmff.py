"""ISO base media files: HEIC, AVIF, CR3, and the boxes of JPEG XL (ISO 14496-12, 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxy.metadata.container.collector import Collector
from proxy.metadata.container.result import BlockKind, Extent

MAX_DEPTH = 8
_MAX_TABLE = 4 << 20
"""Bytes of one box of the meta box that are read."""
_CANON = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_UUIDS = {
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): BlockKind.XMP,
    bytes.fromhex("d8fec3d61b0e483c92975828877ec481"): BlockKind.C2PA,
}
_CMT = {b"CMT1": "IFD0", b"CMT2": "ExifIFD"}
_TRACKS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_TIFF_OFFSET = 4
"""Bytes before the Exif block: the position of its TIFF header, which is always 0."""
_RDF = "application/rdf+xml"


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


class _Item(NamedTuple):
    kind: bytes
    content_type: str


def read(collector: Collector) -> None:
    """Walk the boxes of the file."""
    _Boxes(collector).walk(0, collector.size, 0)


def read_jxl(collector: Collector) -> None:
    """Read a naked codestream or the boxes of a JPEG XL container."""
    if collector.read(0, 2) == b"\xff\x0a":
        _jxl_size(collector, 0)
    else:
        read(collector)


class _Boxes:
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def _children(self, at: int, end: int) -> Iterator[_Box]:
        """Yield the boxes between two positions."""
        while at + 8 <= end:
            self._collector.count_chunk()
            head = self._collector.read(at, 16)
            length, start = int.from_bytes(head[:4], "big"), at + 8
            if length == 1:
                length, start = int.from_bytes(head[8:16], "big"), at + 16
            stop = end if length == 0 else at + length
            if stop < start:
                self._collector.damage(f"A box at byte {at} has an invalid length")
                return
            if stop > end:
                self._collector.damage(f"The box {_name(head[4:8])} at byte {at} is truncated")
                stop = end
            yield _Box(head[4:8], start, stop)
            at = stop

    def walk(self, at: int, end: int, depth: int) -> None:
        """Read the boxes that hold metadata, and look into those that hold others."""
        if depth > MAX_DEPTH:
            self._collector.warn("Boxes are nested too deeply")
            return
        for box in self._children(at, end):
            if box.kind == b"meta":
                self._meta(box)
            elif box.kind == b"uuid":
                self._uuid(box, depth)
            elif box.kind in _TRACKS:
                self.walk(box.start, box.end, depth + 1)
            else:
                self._leaf(box)

    def _leaf(self, box: _Box) -> None:
        collector = self._collector
        if box.kind == b"Exif":
            self._block(BlockKind.EXIF, "JXL Exif", box.start + _TIFF_OFFSET, box.end)
        elif box.kind == b"xml ":
            self._block(BlockKind.XMP, "JXL xml", box.start, box.end)
        elif box.kind == b"jumb":
            self._block(BlockKind.C2PA, "JXL jumb", box.start - 8, box.end)
        elif box.kind == b"brob":
            self._compressed(box)
        elif box.kind == b"jxlc":
            _jxl_size(collector, box.start)
        elif box.kind == b"jxlp":
            _jxl_size(collector, box.start + 4)
        elif box.kind in _CMT:
            where = f"CR3 {_name(box.kind)}"
            self._block(BlockKind.EXIF, where, box.start, box.end)
        elif box.kind == b"tkhd" and collector.image.width is None:
            size = collector.read(box.end - 8, 8)
            width, height = int.from_bytes(size[:2], "big"), int.from_bytes(size[4:6], "big")
            collector.set_image(width=width or None, height=height or None)

    def _compressed(self, box: _Box) -> None:
        """Read a box of JPEG XL whose content is compressed: a type, then the content."""
        collector = self._collector
        name = _name(collector.read(box.start, 4))
        where = f"The compressed box {name} at byte {box.start - 8}"
        extent = Extent(box.start, box.end - box.start)
        packed = collector.metadata(*extent, where)[4:]
        if name not in ("Exif", "xml ", "jumb"):
            collector.add_other(where, extent)
            return
        content = collector.decompress_brotli(packed, where)
        if name == "Exif":
            collector.add_block(BlockKind.EXIF, "JXL Exif", content[_TIFF_OFFSET:], [extent])
        elif name == "xml ":
            collector.add_block(BlockKind.XMP, "JXL xml", content, [extent])
        elif content:
            # Content Credentials include the head of their box, which compression removes.
            head = (len(content) + 8).to_bytes(4, "big") + b"jumb"
            collector.add_block(BlockKind.C2PA, "JXL jumb", head + content, [extent])

    def _block(self, kind: BlockKind, where: str, start: int, end: int) -> None:
        extent = Extent(start, max(0, end - start))
        self._collector.add_block(kind, where, self._collector.metadata(*extent, where), [extent])

    def _uuid(self, box: _Box, depth: int) -> None:
        identifier = self._collector.read(box.start, 16)
        start = box.start + 16
        if identifier == _CANON:
            self.walk(start, box.end, depth + 1)
        elif (kind := _UUIDS.get(identifier)) is BlockKind.XMP:
            self._block(kind, "uuid XMP", start, box.end)
        elif kind is BlockKind.C2PA:
            # Version and flags, then a purpose; the manifest follows the offset of a hash.
            head = self._collector.read(start + 4, 64)
            purpose, _, _ = head.partition(b"\0")
            if purpose == b"manifest":
                self._block(kind, "uuid C2PA", start + 4 + len(purpose) + 1 + 8, box.end)

    def _meta(self, box: _Box) -> None:
        """Read items: their types, where their bytes are, and the properties of the first one."""
        start = box.start + 4
        # QuickTime writes meta without version and flags.
        if self._collector.read(box.start + 4, 4) == b"hdlr":
            start = box.start
        tables: dict[bytes, _Box] = {}
        for child in self._children(start, box.end):
            tables.setdefault(child.kind, child)
        items = self._items(tables.get(b"iinf"))
        if b"iprp" in tables:
            self._properties(tables)
        if b"iloc" in tables:
            for number, extents in self._locations(tables):
                item = items.get(number)
                if item and (item.kind == b"Exif" or item.content_type == _RDF):
                    self._item(item, extents)

    def _item(self, item: _Item, extents: list[Extent]) -> None:
        collector = self._collector
        where = "HEIF Exif item" if item.kind == b"Exif" else "HEIF XMP item"
        content = b"".join(collector.metadata(*extent, where) for extent in extents)
        if item.kind != b"Exif":
            collector.add_block(BlockKind.XMP, where, content, extents)
            return
        # The offset of the TIFF header, which is usually zero or the length of "Exif\0\0".
        skipped = int.from_bytes(content[:4], "big")
        inner = content[4:] if content[4:10] == b"Exif\0\0" else content[4 + skipped :]
        collector.add_block(BlockKind.EXIF, where, inner, extents)

    def _table(self, box: _Box) -> bytes:
        return self._collector.read(box.start, min(box.end - box.start, _MAX_TABLE))

    def _items(self, box: _Box | None) -> dict[int, _Item]:
        if box is None:
            return {}
        version = self._collector.read(box.start, 1)[:1]
        start = box.start + (6 if version == b"\0" else 8)
        items = {}
        for entry in self._children(start, box.end):
            raw = self._collector.read(entry.start, min(entry.end - entry.start, 1024))
            wide = raw[:1] == b"\3"
            number = int.from_bytes(raw[4 : 8 if wide else 6], "big")
            rest = raw[10 if wide else 8 :]
            content_type = rest[4:].split(b"\0")[1:2] if rest[:4] == b"mime" else []
            text = b"".join(content_type).decode("latin-1")
            items[number] = _Item(rest[:4], text)
        return items

    def _locations(self, tables: dict[bytes, _Box]) -> Iterator[tuple[int, list[Extent]]]:
        """Yield each item's number and extents in the file (ISO 14496-12, 8.11.3)."""
        fields = _Fields(self._table(tables[b"iloc"]))
        version = fields.take(1)
        fields.take(3)
        sizes = fields.take(2)
        offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_size = sizes & 15 if version in (1, 2) else 0
        wide = 4 if version == 2 else 2  # noqa: PLR2004
        for _ in range(fields.take(wide)):
            if fields.ended:
                self._collector.damage("HEIF: the item locations are truncated")
                return
            self._collector.count_chunk()
            number = fields.take(wide)
            method = fields.take(2) & 15 if version in (1, 2) else 0
            fields.take(2)
            base = fields.take(base_size)
            extents = []
            for _ in range(fields.take(2)):
                if fields.ended:
                    break
                # Fields of no length would end nothing.
                self._collector.count_chunk()
                fields.take(index_size)
                offset, length = base + fields.take(offset_size), fields.take(length_size)
                extents.append(Extent(offset, length))
            if method == 1 and b"idat" in tables:
                extents = [Extent(tables[b"idat"].start + at, size) for at, size in extents]
            if method <= 1:
                yield number, extents

    def _properties(self, tables: dict[bytes, _Box]) -> None:
        inner = {b.kind: b for b in self._children(tables[b"iprp"].start, tables[b"iprp"].end)}
        if b"ipco" not in inner:
            return
        properties = list(self._children(inner[b"ipco"].start, inner[b"ipco"].end))
        primary = self._primary(tables.get(b"pitm"))
        own = self._associated(inner.get(b"ipma"), primary)
        chosen = [p for n, p in enumerate(properties, 1) if n in own] or properties
        for box in chosen:
            self._property(box)
        for box in properties:
            if box.kind == b"auxC" and b"alpha" in self._collector.read(box.start, 64):
                self._collector.set_image(has_alpha=True)
        self._collector.set_image(has_alpha=False)

    def _property(self, box: _Box) -> None:
        raw = self._collector.read(box.start, 16)
        if box.kind == b"ispe" and len(raw) >= 12:  # noqa: PLR2004
            width, height = int.from_bytes(raw[4:8], "big"), int.from_bytes(raw[8:12], "big")
            self._collector.set_image(width=width, height=height)
        elif box.kind == b"pixi" and len(raw) >= 6:  # noqa: PLR2004
            self._collector.set_image(channels=raw[4], bit_depth=raw[5])
        elif box.kind == b"colr" and raw[:4] in (b"prof", b"rICC"):
            self._block(BlockKind.ICC, "HEIF colr", box.start + 4, box.end)

    def _primary(self, box: _Box | None) -> int:
        if box is None:
            return 0
        raw = self._collector.read(box.start, 8)
        return int.from_bytes(raw[4:6] if raw[:1] == b"\0" else raw[4:8], "big")

    def _associated(self, box: _Box | None, item: int) -> set[int]:
        """Return the indices, from 1, of an item's properties."""
        if box is None:
            return set()
        fields = _Fields(self._table(box))
        version, flags = fields.take(1), fields.take(3)
        width = 2 if flags & 1 else 1
        for _ in range(fields.take(4)):
            if fields.ended:
                break
            self._collector.count_chunk()
            number = fields.take(4 if version else 2)
            found = {
                fields.take(width) & (0x7FFF if width > 1 else 0x7F) for _ in range(fields.take(1))
            }
            if number == item:
                return found
        return set()


class _Fields:
    """Reads big-endian integers one after the other; zero behind the end."""

    def __init__(self, table: bytes) -> None:
        self._table = table
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._table)

    def take(self, length: int) -> int:
        self._at += length
        return int.from_bytes(self._table[self._at - length : self._at], "big")


def _name(kind: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in kind)  # noqa: PLR2004


_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jxl_size(collector: Collector, at: int) -> None:
    """Read the size header of a codestream (ISO 18181-1, A.3)."""
    head = collector.read(at, 16)
    if head[:2] != b"\xff\x0a":
        return
    bits = int.from_bytes(head[2:], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(*, small: bool) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = bool(take(1))
    height = side(small=small)
    ratio = take(3)
    if ratio:
        numerator, denominator = _JXL_RATIOS[ratio - 1]
        width = height * numerator // denominator
    else:
        width = side(small=small)
    collector.set_image(width=width, height=height)
