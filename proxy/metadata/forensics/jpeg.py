"""The structure of a JPEG: its quantization tables, the quality they stand for, and its end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

_EOI, _SOS, _DQT = 0xD9, 0xDA, 0xDB
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_MAX_SEGMENTS = 20_000
_PIECE = 1 << 20
# In a scan 0xFF is followed by 0x00 or a restart marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_MAX_TABLES = 8
# ITU T.81, K.1 and K.2: what libjpeg scales, row by row.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *([99] * 32),
)


def _zigzag() -> tuple[int, ...]:
    """Return the place, row by row, of each value in the order of the file."""
    places = [(row, column) for row in range(8) for column in range(8)]
    # Diagonals in turns upwards and downwards.
    places.sort(key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]))
    return tuple(row * 8 + column for row, column in places)


_ZIGZAG = _zigzag()


@dataclass(frozen=True, slots=True)
class QuantizationTable:
    """A quantization table."""

    number: int
    precision: int
    """8 or 16 bits."""
    values: tuple[int, ...]
    """64 divisors, row by row."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What the segments of a JPEG contain."""

    tables: tuple[QuantizationTable, ...]
    end: int | None
    """Offset after the end-of-image marker; None if it is missing, or too far away."""


def structure_of(file: BinaryIO) -> Structure:
    """Walk all segments and scans of a JPEG that starts at the beginning of the file."""
    tables: list[QuantizationTable] = []
    end = None
    for marker, at, content in _segments(file):
        if marker == _EOI:
            end = at
            break
        if marker == _DQT and len(tables) < _MAX_TABLES:
            tables.extend(_tables(content))
    return Structure(tuple(tables[:_MAX_TABLES]), end)


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, the offset after it, and the content of quantization tables."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        found = _next_marker(file, at)
        if found is None:
            return
        marker, at = found
        if marker in _ALONE or marker == _EOI:
            yield marker, at, b""
            continue
        file.seek(at)
        length = int.from_bytes(file.read(2), "big")
        yield marker, at, file.read(length - 2) if marker == _DQT and length > 2 else b""  # noqa: PLR2004
        at += max(2, length)


def _next_marker(file: BinaryIO, at: int) -> tuple[int, int] | None:
    """Return the next marker that is not of a scan, and the offset after it."""
    file.seek(at)
    rest = b""
    while piece := file.read(_PIECE if rest else 4096):
        window = rest + piece
        if match := _MARKER.search(window):
            return match[1][0], at + match.end()
        # A marker may be cut.
        keep = len(window) - len(window.rstrip(b"\xff"))
        keep = min(max(keep, 1), 16)
        at += len(window) - keep
        rest = window[-keep:]
    return None


def _tables(content: bytes) -> Iterator[QuantizationTable]:
    at = 0
    while at < len(content):
        wide, number = content[at] >> 4, content[at] & 15
        size = 2 if wide else 1
        raw = content[at + 1 : at + 1 + 64 * size]
        if len(raw) < 64 * size:
            return
        values = [0] * 64
        for index, place in enumerate(_ZIGZAG):
            values[place] = int.from_bytes(raw[index * size : (index + 1) * size], "big")
        yield QuantizationTable(number, 16 if wide else 8, tuple(values))
        at += 1 + 64 * size


def described(structure: Structure, *, progressive: bool | None) -> dict[str, Any]:
    """Return the part ``jpeg`` of the facts."""
    quality, exact = quality_of(structure.tables)
    return {
        "tables": [
            {"id": one.number, "precision": one.precision, "values": list(one.values)}
            for one in structure.tables
        ],
        "estimated_quality": quality,
        "libjpeg_tables": exact,
        "progressive": progressive,
    }


def quality_of(tables: Sequence[QuantizationTable]) -> tuple[int | None, bool | None]:
    """Return the quality of libjpeg with the nearest tables, 1 to 100, and whether they are equal.

    Photoshop and many cameras have tables of their own, for which the quality is an estimate.
    """
    by_number = {one.number: one.values for one in reversed(tables)}
    pairs = [
        (by_number[number], base)
        for number, base in ((0, _LUMINANCE), (1, _CHROMINANCE))
        if number in by_number
    ]
    if not pairs:
        return None, None
    best = min(range(100, 0, -1), key=lambda quality: _difference(pairs, quality))
    return best, _difference(pairs, best) == 0


def _difference(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], quality: int) -> int:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality  # noqa: PLR2004 - libjpeg's
    return sum(
        abs(value - min(255, max(1, (one * scale + 50) // 100)))
        for values, base in pairs
        for value, one in zip(values, base, strict=True)
    )
