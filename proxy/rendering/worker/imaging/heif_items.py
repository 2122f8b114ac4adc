"""The items of HEIC and AVIF (ISO/IEC 23008-12), and limits for what decoding them needs.

libheif allocates what a file claims to have, and a process that exceeds its memory in C++ ends. So
the items are checked before libheif reads the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyvips

from proxy.domain.worker_protocol import Limits
from proxy.rendering.worker.imaging.libvips import SourceRefused

LIBVIPS_ITEMS = 256
"""Items that libvips reads by default. Panoramas of telephones have more:
each tile of 512 x 512 pixels is one."""
# Default of libheif, which pi-heif has.
_MAX_ITEMS = 1000
_MAX_REFERENCES = 10_000
_MAX_PROPERTIES = 1000
_MAX_META_BYTES = 8 * 1024 * 1024
# Samples in all tracks of a sequence. libheif lists each with 110 bytes when it opens a file, also
# for the still image, and a table of 20 bytes may claim ten million.
_MAX_SAMPLES = 100_000
_MAX_TABLE_BYTES = 1024 * 1024
# pi-heif copies the Exif of a burst for each of its images.
_MAX_METADATA_BYTES = 64 * 1024 * 1024
# Levels of items that are made of other items. A grid of tiles has one.
_MAX_LEVELS = 8
# Decoded pixels, of those that an image may have: tiles exceed the image, and an image may have an
# alpha and a gain map.
_MAX_DECODED_SHARE = 3
# Coding units have up to 64 x 64 pixels.
_MIN_CODED_PIXELS = 64 * 64
# Boxes in one, or in the file. Decoders read all of them, so none may be left unchecked.
_MAX_BOXES = 1000

# Without a meaning for the tables, or allowed several times (8.9).
_REPEATED = (b"free", b"skip", b"uuid", b"sgpd", b"sbgp", b"subs", b"saiz", b"saio")

_LENGTH_AND_NAME = struct.Struct(">I4s")
_FULL_BOX = 4
_WIDE_VERSION = 2
Property = tuple[bytes, bytes]
"""Name and content of a box."""


@dataclass(frozen=True, slots=True)
class ItemReference:
    """A reference of one item to others (ISO/IEC 14496-12, 8.11.12)."""

    kind: bytes
    item: int
    others: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HeifItems:
    """The items that the meta box of a file describes."""

    count: int
    primary: int
    """0 if the file names none."""
    properties: Mapping[int, Sequence[Property]]
    """By item."""
    references: Sequence[ItemReference]
    lengths: Mapping[int, int]
    """Bytes that are read for each item."""

    @property
    def premultiplied(self) -> bool:
        """Whether the colours of the primary item are multiplied by its alpha (MIAF, 7.3.5.2)."""
        return any(one.kind == b"prem" and one.item == self.primary for one in self.references)

    def of_primary(self) -> list[Property]:
        """Return the properties of the primary item; if it is a grid, also those of a tile."""
        tiles = (
            one.others[:1]
            for one in self.references
            if one.kind == b"dimg" and one.item == self.primary
        )
        items = [self.primary, *next(tiles, ())]
        return [one for item in items for one in self.properties.get(item, ())]


def read(source: int | bytes) -> HeifItems | None:
    """Return the items of a file, a descriptor or its bytes; None if it has no meta box.

    Raises:
        SourceRefused: there are more of something than any image needs.
        pyvips.Error: a box that is needed is damaged.
    """
    with _translated():
        found = _top_box(source, b"meta")
        return None if found is None else _items(found, _size(source))


def check(source: int | bytes, limits: Limits) -> int:
    """Check what decoding the primary image needs; return the number of items.

    Raises:
        SourceRefused, pyvips.Error: as `read`, or a limit is exceeded.
    """
    with _translated():
        _check_samples(_top_box(source, b"moov") or b"")
    items = read(source)
    if items is None:
        return 0
    # More than the file has: parts of it are read repeatedly.
    size = _size(source)
    _allow(max(items.lengths.values(), default=0), size, "bytes in an item")
    copied = sum(
        items.lengths.get(one.item, 0) * len(one.others)
        for one in items.references
        if one.kind == b"cdsc"
    )
    _allow(copied, _MAX_METADATA_BYTES, "bytes of metadata in all its images")
    with _translated():
        decoded = _DecodedPixels(items, limits).of(items.primary)
    _allow(decoded, _MAX_DECODED_SHARE * limits.max_pixels, "pixels in its tiles and layers")
    return items.count


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (struct.error, IndexError) as error:
        raise pyvips.Error("unable to decode HEIF", "its boxes are damaged") from error


def _allow(found: int, allowed: int, what: str) -> None:
    if found > allowed:
        detail = f"the source has {found:,} {what}; {allowed:,} are allowed"
        raise SourceRefused("too_large", detail)


class _DecodedPixels:
    """Counts the pixels that are decoded for an item, repetitions included."""

    def __init__(self, items: HeifItems, limits: Limits) -> None:
        self._items, self._limits = items, limits
        self._sources: dict[int, list[int]] = {}
        self._layers: dict[int, list[int]] = {}
        for one in items.references:
            if one.kind == b"dimg":
                self._sources.setdefault(one.item, []).extend(one.others)
            elif one.kind == b"auxl":
                for other in one.others:
                    self._layers.setdefault(other, []).append(one.item)
        self._known: dict[int, int] = {}

    def of(self, item: int, level: int = 0) -> int:
        """Return the pixels of an item, its layers, such as an alpha, and what it is made of.

        Raises:
            SourceRefused: an item exceeds a limit, or is made of itself.
        """
        if item in self._known:
            return self._known[item]
        _allow(level, _MAX_LEVELS, "levels of images that are made of others")
        own = self._checked_size(item)
        sources = self._sources.get(item, [])
        parts = [*sources, *self._layers.get(item, [])]
        pixels = sum(self.of(part, level + 1) for part in parts)
        # The canvas of the image itself is what every other image needs, too.
        pixels += max(own, _MIN_CODED_PIXELS) if level or not sources else 0
        self._known[item] = pixels
        return pixels

    def _checked_size(self, item: int) -> int:
        pixels = 0
        for name, body in self._items.properties.get(item, ()):
            if name == b"ispe":
                width, height = struct.unpack_from(">II", body, _FULL_BOX)
                _allow(max(width, height), self._limits.max_side, "pixels on its longer side")
                _allow(width * height, self._limits.max_pixels, "pixels")
                pixels = max(pixels, width * height)
        return pixels


def boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each box (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + _LENGTH_AND_NAME.size <= len(content):
        length, name = _LENGTH_AND_NAME.unpack_from(content, at)
        start = at + _LENGTH_AND_NAME.size
        # 1: the length is in the next 64 bits; 0: the box extends to the end.
        if length == 1:
            (length,) = struct.unpack_from(">Q", content, start)
            start += 8
        at = at + length if length else len(content)
        if at < start:
            raise IndexError("a box is shorter than its header")
        yield name, content[start:at]


def _size(source: int | bytes) -> int:
    return len(source) if isinstance(source, bytes) else os.fstat(source).st_size


def _part(source: int | bytes, length: int, at: int) -> bytes:
    """Return bytes of a file, which is a descriptor or in memory."""
    if isinstance(source, bytes):
        return source[at : at + length]
    # Offsets of 64 bits may exceed those of the system.
    return os.pread(source, length, at) if at < _size(source) else b""


def _top_box(source: int | bytes, wanted: bytes) -> bytes | None:
    """Return the content of the only box of the file with a name; None if there is none."""
    at, found, size = 0, None, _size(source)
    for number in range(1, _MAX_BOXES + 2):
        header = _part(source, 16, at)
        if len(header) < _LENGTH_AND_NAME.size:
            break
        _allow(number, _MAX_BOXES, "boxes")
        length, name = _LENGTH_AND_NAME.unpack_from(header)
        start = at + _LENGTH_AND_NAME.size
        if length == 1:
            (length,) = struct.unpack_from(">Q", header, _LENGTH_AND_NAME.size)
            start += 8
        end = at + length if length else size
        if end < start:
            break
        if name == wanted:
            # Decoders differ in which of several they read.
            if found is not None:
                raise IndexError("a box is there twice")
            present = max(0, min(end, size) - start)
            _allow(present, _MAX_META_BYTES, f"bytes in its {wanted.decode()} box")
            found = _part(source, present, start)
        at = end
    return found


def _listed(content: bytes) -> list[tuple[bytes, bytes]]:
    found = list(islice(boxes(content), _MAX_BOXES + 1))
    _allow(len(found), _MAX_BOXES, "boxes in one box")
    return found


def _within(content: bytes, path: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the content of each box at a path of names."""
    if not path:
        yield content
        return
    for name, body in _listed(content):
        if name == path[0]:
            yield from _within(body, path[1:])


def _check_samples(moov: bytes) -> None:
    """Check the number of samples that tracks claim (14496-12, 8.6.1.2, 8.7.3 to 8.7.5)."""
    total = 0
    for stbl in _within(moov, (b"trak", b"mdia", b"minf", b"stbl")):
        tables = _distinct(stbl)
        sizes = tables.get(b"stsz", bytes(12))
        timed = sum(number for number, _ in _rows(tables.get(b"stts", b""), ">II"))
        # Decoders differ in which table they rely on.
        total += max(struct.unpack_from(">I", sizes, 8)[0], timed, _chunked(tables))
        _allow(total, _MAX_SAMPLES, "samples in its tracks")


def _chunked(tables: Mapping[bytes, bytes]) -> int:
    """Return the samples in all chunks of a track; each row of stsc applies up to the next."""
    chunks = sum(
        struct.unpack_from(">I", tables[name], _FULL_BOX)[0]
        for name in (b"stco", b"co64")
        if name in tables
    )
    runs = [(first, each) for first, each, _ in _rows(tables.get(b"stsc", b""), ">III")]
    ends = [*(first for first, _ in runs[1:]), chunks + 1]
    pairs = zip(runs, ends, strict=False)
    return sum(max(0, min(end, chunks + 1) - first) * each for (first, each), end in pairs)


def _rows(table: bytes, layout: str) -> Iterator[tuple[int, ...]]:
    """Yield the rows of a table that are there; their number precedes them."""
    row = struct.Struct(layout)
    (number,) = struct.unpack_from(">I", table, _FULL_BOX) if table else (0,)
    end = min(len(table), 2 * _FULL_BOX + number * row.size)
    return (row.unpack_from(table, at) for at in range(8, end - row.size + 1, row.size))


def _distinct(content: bytes) -> dict[bytes, bytes]:
    """Return boxes by name."""
    found: dict[bytes, bytes] = {}
    for name, body in _listed(content):
        # Decoders differ in which of several they read.
        if name in found and name not in _REPEATED:
            raise IndexError("a table is there twice")
        found[name] = body
    return found


def _tables(meta: bytes) -> dict[bytes, bytes]:
    tables = _distinct(meta[_FULL_BOX:])
    for name in (b"iloc", b"iinf", b"iref", b"pitm"):
        _allow(len(tables.get(name, b"")), _MAX_TABLE_BYTES, f"bytes in its {name.decode()} box")
    return tables


def _items(meta: bytes, file_bytes: int) -> HeifItems:
    tables = _tables(meta)
    primary = 0
    if pitm := tables.get(b"pitm"):
        (primary,) = struct.unpack_from(">I" if pitm[0] else ">H", pitm, _FULL_BOX)
    iinf = tables.get(b"iinf", bytes(6))
    (count,) = struct.unpack_from(">I" if iinf[0] else ">H", iinf, _FULL_BOX)
    _allow(count, _MAX_ITEMS, "items")
    return HeifItems(
        count,
        primary,
        _properties(tables.get(b"iprp", b"")),
        list(_references(tables.get(b"iref", b""))),
        dict(_lengths(tables.get(b"iloc", b""), file_bytes)),
    )


def _properties(iprp: bytes) -> dict[int, list[Property]]:
    everything: list[Property] = []
    owned: list[tuple[int, int]] = []
    for name, body in _listed(iprp):
        if name == b"ipco" and not everything:
            everything = list(islice(boxes(body), _MAX_PROPERTIES + 1))
            _allow(len(everything), _MAX_PROPERTIES, "properties")
        elif name == b"ipma":
            _allow(len(body), _MAX_TABLE_BYTES, "bytes in its ipma box")
            owned += _associations(body)
    found: dict[int, list[Property]] = {}
    for item, index in owned:
        if 0 < index <= len(everything):
            found.setdefault(item, []).append(everything[index - 1])
    return found


def _associations(box: bytes) -> Iterator[tuple[int, int]]:
    """Yield each item with the index, from 1, of each of its properties (23008-12, 9.3)."""
    item = struct.Struct(">I" if box[0] else ">H")
    index, mask = (">H", 0x7FFF) if box[3] & 1 else (">B", 0x7F)
    (count,) = struct.unpack_from(">I", box, _FULL_BOX)
    at = 2 * _FULL_BOX
    for _ in range(count):
        (identifier,) = item.unpack_from(box, at)
        many = box[at + item.size]
        at += item.size + 1
        for _ in range(many):
            (one,) = struct.unpack_from(index, box, at)
            at += struct.calcsize(index)
            yield identifier, one & mask


def _references(iref: bytes) -> Iterator[ItemReference]:
    if not iref:
        return
    size, code = (4, "I") if iref[0] else (2, "H")
    total = 0
    for name, box in boxes(iref[_FULL_BOX:]):
        item, count = struct.unpack_from(f">{code}H", box)
        total += count + 1
        _allow(total, _MAX_REFERENCES, "references between its items")
        yield ItemReference(name, item, struct.unpack_from(f">{count}{code}", box, size + 2))


def _lengths(iloc: bytes, file_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield each item with the sum of the lengths of its extents (14496-12, 8.11.3)."""
    if not iloc:
        return
    version, (sizes,) = iloc[0], struct.unpack_from(">H", iloc, _FULL_BOX)
    offset, length, base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    step = offset + length + (sizes & 15 if version else 0)
    wide = 4 if version == _WIDE_VERSION else 2
    at = _FULL_BOX + 2
    count = int.from_bytes(iloc[at : at + wide], "big")
    _allow(count, _MAX_ITEMS, "items")
    at += wide
    for _ in range(count):
        item = int.from_bytes(iloc[at : at + wide], "big")
        # The construction method and the index of a data reference lie between them.
        at += wide + (2 if version else 0) + 2
        start = int.from_bytes(iloc[at : at + base], "big")
        at += base
        (extents,) = struct.unpack_from(">H", iloc, at)
        at += 2
        if at + step * extents > len(iloc):
            raise IndexError("the extents are incomplete")
        if not length:  # each is the whole file
            yield item, extents * file_bytes
            continue
        total = 0
        for _ in range(extents):
            first = at + step - length
            found = int.from_bytes(iloc[first : first + length], "big") or file_bytes
            begin = start + int.from_bytes(iloc[first - offset : first], "big")
            # What is beyond the end of the file is missing, and not read.
            total += max(0, min(found, file_bytes - begin))
            at += step
        yield item, total
