"""Small HEIC and AVIF files that claim to be large, or to be read very often."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from PIL import Image

from proxy.rendering.worker.imaging import libvips
from tests.rendering.worker.imaging.crafted import HeifItem, grid, heif_of, ispe

# The frame of the sample: 64 x 64 pixels of one grey.
SAMPLE = libvips._HEIC_SAMPLE
SIDE = 64


def property_of(heic: bytes, name: bytes) -> tuple[bytes, bytes]:
    """Return the first property of a name, and its content."""
    at = heic.index(name)
    (length,) = struct.unpack_from(">I", heic, at - 4)
    return name, heic[at + 4 : at - 4 + length]


def payload_of(heic: bytes) -> bytes:
    return heic[heic.index(b"mdat") + 4 :]


PROPERTIES = (
    *(property_of(SAMPLE, name) for name in (b"hvcC", b"colr", b"pixi")),
    ispe(SIDE, SIDE),
)
ALPHA = (b"auxC", bytes(4) + b"urn:mpeg:hevc:2015:auxid:1\0")
DEPTH = (b"auxC", bytes(4) + b"urn:mpeg:hevc:2015:auxid:2\0")
GAIN_MAP = (b"auxC", bytes(4) + b"urn:com:apple:photo:2020:aux:hdrgainmap\0")


def image(*properties: tuple[bytes, bytes], **options: object) -> HeifItem:
    """An item with the sample's frame."""
    made = HeifItem(b"hvc1", payload_of(SAMPLE), (*PROPERTIES, *properties))
    return replace(made, **options)  # type: ignore[arg-type]


def sized(width: int, height: int, *properties: tuple[bytes, bytes], **options: object) -> HeifItem:
    """An item that claims a size."""
    kinds = (*PROPERTIES[:-1], ispe(width, height), *properties)
    return image(properties=kinds, **options)


def layer(kind: tuple[bytes, bytes], side: int = SIDE) -> HeifItem:
    """A layer of the first item."""
    return sized(side, side, kind, references=((b"auxl", (1,)),))


def tiled(columns: int, rows: int) -> bytes:
    """A grid of equal tiles."""
    count = columns * rows
    whole = grid(columns, rows, (SIDE * columns, SIDE * rows), range(2, count + 2))
    return heif_of(b"heic", [whole, *[image(hidden=True)] * count])


def chained(levels: int) -> bytes:
    derived = [
        HeifItem(b"iden", b"", (ispe(SIDE, SIDE),), ((b"dimg", (below + 1,)),))
        for below in range(levels)
    ]
    return heif_of(b"heic", [image(), *derived], primary=levels + 1)


def overlaid(copies: int) -> bytes:
    """Three levels, each of which shows the one below many times."""
    items = [image()]
    for _ in range(3):
        below, first = len(items), len(items) + 1
        items += [HeifItem(b"iden", b"", (ispe(SIDE, SIDE),), ((b"dimg", (below,)),))] * copies
        canvas = bytes(10) + struct.pack(">HH", SIDE, SIDE) + bytes(4 * copies)
        shown = (b"dimg", tuple(range(first, first + copies)))
        items.append(HeifItem(b"iovl", canvas, (ispe(SIDE, SIDE),), (shown,)))
    return heif_of(b"heic", items, primary=len(items))


def repeated(brand: bytes = b"heic") -> bytes:
    """Ten megabytes that are read thirty times for one frame."""
    body = payload_of(SAMPLE) + bytes(10_000_000)
    return heif_of(brand, [image(payload=body, extents=30)])


def with_exif(images: int, length: int) -> bytes:
    exif = HeifItem(b"Exif", bytes(length), (), ((b"cdsc", tuple(range(1, images + 1))),))
    return heif_of(b"heic", [*[image()] * images, exif])


def with_properties(count: int) -> bytes:
    made = heif_of(b"heic", [image()])
    at = made.index(b"ipco")
    (length,) = struct.unpack_from(">I", made, at - 4)
    extra = struct.pack(">I4s", 8, b"free") * count
    grown = bytearray(made[: at - 4 + length] + extra + made[at - 4 + length :])
    for name in (b"meta", b"iprp", b"ipco"):
        place = grown.index(name) - 4
        (old,) = struct.unpack_from(">I", grown, place)
        struct.pack_into(">I", grown, place, old + len(extra))
    return bytes(grown)


def sequence(samples: int, side: int = 16, *, sizes: int | None = None) -> bytes:
    """An animated AVIF that claims a number of frames, and their size.

    Decoders differ in the table that they count by; with ``sizes``, the one of sizes differs.
    """
    made = bytearray(_two_frames())
    # After version and flags: one size for all samples, their number.
    _put(made, b"stsz", 4, 1, samples if sizes is None else sizes)
    _put(made, b"stts", 4, 1, samples if sizes is None else sizes)
    # One run: from the first chunk, so many samples in each.
    _put(made, b"stsc", 4, 1, 1, samples)
    # Version 1: two times and a duration of 64 bits, the number, and what is the same for all.
    _put(made, b"tkhd", 4 + 3 * 8 + 2 * 4 + 4 * 4 + 36, side << 16, side << 16)
    # Without its samples a decoder refuses the track, and the still image is shown.
    return bytes(made) + bytes(min(samples, 1_000))


def _put(made: bytearray, name: bytes, offset: int, *values: int) -> None:
    struct.pack_into(f">{len(values)}I", made, made.index(name) + 4 + offset, *values)


@cache
def _two_frames() -> bytes:
    pages = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    pages[0].save(buffer, "AVIF", save_all=True, append_images=pages[1:], speed=10)
    return buffer.getvalue()


def with_track(still: bytes, samples: int) -> bytes:
    """A still image and a track, which decoders of it read too."""
    moving = sequence(samples)
    at = moving.index(b"moov") - 4
    (length,) = struct.unpack_from(">I", moving, at)
    return still + moving[at : at + length]


def large_tiles(**options: int) -> bytes:
    items = [grid(4, 4, (256, 256), range(2, 18)), *[sized(9_000, 9_000)] * 16]
    return heif_of(b"heic", items, **options)


BOMBS: Mapping[str, Callable[[], bytes]] = {
    "a side": lambda: heif_of(b"heic", [sized(65_535, 65_535)]),
    "a side of 31 bits": lambda: heif_of(b"heic", [sized(2**31, 2**31)]),
    "an AVIF's side": lambda: heif_of(b"avif", [sized(2**31, 2**31, kind=b"av01")]),
    "pixels": lambda: heif_of(b"heic", [sized(16_000, 16_000)]),
    "a cropped size": lambda: heif_of(
        b"heic", [image((b"clap", struct.pack(">8I", 60_000, 1, 60_000, 1, 0, 1, 0, 1)))]
    ),
    "a grid": lambda: heif_of(b"heic", [grid(2, 2, (65_535, 9), range(2, 6)), *[image()] * 4]),
    "large tiles in a small grid": large_tiles,
    "large tiles after empty boxes": lambda: large_tiles(padding=100),
    "large tiles in tables after empty boxes": lambda: large_tiles(inner=100),
    "boxes": lambda: large_tiles(padding=2_000),
    "boxes among the tables": lambda: large_tiles(inner=2_000),
    "an alpha": lambda: heif_of(b"heic", [image(), layer(ALPHA, 16_384)]),
    "layers": lambda: heif_of(b"heic", [image(), *[layer(ALPHA, 9_000)] * 9]),
    "items": lambda: heif_of(b"heic", [image()] * 20_000),
    "a box of items": lambda: heif_of(b"heic", [image()] * 70_000),
    "references": lambda: heif_of(b"heic", [grid(200, 200, (9_000, 9_000), [2] * 40_000), image()]),
    "levels": lambda: chained(900),
    "a grid of itself": lambda: heif_of(b"heic", [grid(1, 2, (64, 128), (1, 1))]),
    "an alpha of itself": lambda: heif_of(b"heic", [layer(ALPHA)]),
    "repeated layers": lambda: overlaid(80),
    "extents": repeated,
    "extents of an AVIF": lambda: repeated(b"avif"),
    "metadata for each image": lambda: with_exif(200, 1_000_000),
    "samples of a track": lambda: with_track(SAMPLE, 10_000_000),
    "samples of a track of an AVIF": lambda: with_track(
        heif_of(b"avif", [image(kind=b"av01")]), 10_000_000
    ),
    "samples of an animated AVIF": lambda: sequence(10_000_000),
    "samples in a chunk": lambda: sequence(2_000_000, sizes=2),
    "properties": lambda: with_properties(2_000),
}
