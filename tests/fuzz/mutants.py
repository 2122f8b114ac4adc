"""Mutants by number: what is sent and which requests are made, all decided by the seed."""

from __future__ import annotations

import gzip
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import pyvips
from PIL import Image

from tests.fuzz.mutators import mutated
from tests.rendering.worker.imaging import heif_bombs
from tests.support.photos import NAMES, PHOTOS
from tests.support.server import CHROME, WEBP_ONLY

HEIC = Path(__file__).with_name("sketch.heic").read_bytes()
"""A sketch with an alpha and a thumbnail, by heif-enc 1.15, so that it is the same everywhere."""
_SKETCH_SIDE = 120
_FRAMES = 4
_REAL_SHARE = 0.4
"""Percentage of mutants that are made from the photographs themselves."""
_HEAVY = ("giant.jpg", "photo-6mp.jpg", "gain-map.jpg", "alpha-2048.png")
_HEAVY_SHARE = 0.1

QUERIES = (
    "size=thumbnail",
    "w=64",
    "w=128",
    "w=256&dpr=1.5",
    "size=grid",
    "size=thumbnail&format=png",
    "w=96&format=jpeg",
    "w=128&format=webp",
    "w=96&format=avif",
    "size=thumbnail&bg=removed",
    "size=small&format=jpeg",
    "size=detail&format=jpeg",
)
_WEIGHTS = (20, 14, 10, 6, 8, 8, 6, 6, 6, 8, 4, 4)
_ACCEPTS = (CHROME, WEBP_ONLY, "*/*")


@dataclass(frozen=True, slots=True)
class FuzzRequest:
    """A request for a mutant."""

    query: str
    accept: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A damaged image and the requests for it."""

    number: int
    origin: str
    """The name of the source image."""
    body: bytes
    requests: tuple[FuzzRequest, ...]


def mutant(seed: int, number: int, only: Sequence[str] = (), *, requests: int = 2) -> Mutant:
    """Return the mutant of this number; the same seed gives the same mutant everywhere.

    With ``only`` it is made of the sketches with these extensions.
    """
    chance = Random(f"{seed}/{number}")
    origin, body = _picture(chance, only)
    other = body if chance.random() < 0.3 else _picture(chance, only)[1]
    return Mutant(number, origin, mutated(body, other, chance), _random_requests(chance, requests))


def originals() -> list[Mutant]:
    """Return the undamaged photographs, with negative numbers."""
    chance = Random(0)
    return [
        Mutant(-1 - place, name, _read(name), _random_requests(chance, 3))
        for place, name in enumerate(NAMES)
    ]


def _random_requests(chance: Random, count: int) -> tuple[FuzzRequest, ...]:
    queries = chance.choices(QUERIES, _WEIGHTS, k=count)
    return tuple(FuzzRequest(query, chance.choice(_ACCEPTS)) for query in queries)


def _picture(chance: Random, only: Sequence[str]) -> tuple[str, bytes]:
    """Return a photograph, rarely a heavy one, or a sketch in one of the layouts."""
    if only:
        name = chance.choice([one for one in sketches() if one.rpartition(".")[2] in only])
        return name, sketches()[name]
    if chance.random() >= _REAL_SHARE:
        name = chance.choice(tuple(sketches()))
        return name, sketches()[name]
    heavy = chance.random() < _HEAVY_SHARE
    name = chance.choice(_HEAVY if heavy else [name for name in NAMES if name not in _HEAVY])
    return name, _read(name)


@cache
def _read(name: str) -> bytes:
    return (PHOTOS / name).read_bytes()


@cache
def sketches() -> Mapping[str, bytes]:
    """Return small crops of the photographs in layouts that no photograph has."""
    with Image.open(PHOTOS / "kodak-23.png") as picture:
        colour = picture.convert("RGB").crop((200, 100, 200 + _SKETCH_SIDE, 100 + _SKETCH_SIDE))
    return MappingProxyType(dict(_encoded(colour)))


def _encoded(colour: Image.Image) -> Sequence[tuple[str, bytes]]:
    grey, palette = colour.convert("L"), colour.quantize(64)
    clear = colour.convert("RGBA")
    clear.putalpha(grey)
    frames = [colour.rotate(90 * turn) for turn in range(_FRAMES)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 80}
    return [
        ("sketch.jpg", _saved(colour, "JPEG")),
        ("sketch-progressive.jpg", _saved(colour, "JPEG", progressive=True)),
        ("sketch-restarts.jpg", _saved(colour, "JPEG", restart_marker_blocks=2)),
        ("sketch-grey.jpg", _saved(grey, "JPEG")),
        ("sketch-cmyk.jpg", _saved(colour.convert("CMYK"), "JPEG")),
        ("sketch-444.jpg", _saved(colour, "JPEG", subsampling=0, exif=_exif())),
        ("sketch-gain-map.jpg", _ultra_hdr(colour)),
        ("sketch.png", _saved(colour, "PNG")),
        ("sketch-alpha.png", _saved(clear, "PNG")),
        ("sketch-palette.png", _saved(palette, "PNG", transparency=3)),
        ("sketch-16.png", _saved(grey.convert("I;16"), "PNG")),
        ("sketch-moving.png", _saved(frames[0], "PNG", **moving)),
        ("sketch.webp", _saved(colour, "WEBP")),
        ("sketch-alpha.webp", _saved(clear, "WEBP")),
        ("sketch-lossless.webp", _saved(clear, "WEBP", lossless=True, exif=_exif())),
        ("sketch-moving.webp", _saved(frames[0], "WEBP", **moving)),
        ("sketch.avif", _saved(colour, "AVIF", speed=10)),
        ("sketch-alpha.avif", _saved(clear, "AVIF", speed=10, exif=_exif())),
        ("sketch-moving.avif", _saved(frames[0], "AVIF", speed=10, **moving)),
        ("sketch.gif", _saved(palette, "GIF", interlace=1)),
        ("sketch-moving.gif", _saved(frames[0], "GIF", **moving)),
        ("sketch.tiff", _saved(colour, "TIFF")),
        ("sketch-lzw.tiff", _saved(clear, "TIFF", compression="tiff_lzw")),
        ("sketch-jpeg.tiff", _saved(colour, "TIFF", compression="jpeg")),
        ("sketch.svg", _drawing(colour)),
        ("sketch.svgz", gzip.compress(_drawing(colour), mtime=0)),
        ("sketch-bilevel.tiff", _saved(grey.convert("1"), "TIFF", compression="group4")),
        ("sketch.bmp", _saved(colour, "BMP")),
        ("sketch-palette.bmp", _saved(palette, "BMP")),
        ("sketch.ico", _saved(clear, "ICO", sizes=[(96, 96), (16, 16)])),
        ("sketch-bitmap.ico", _saved(clear, "ICO", sizes=[(64, 64)], bitmap_format="bmp")),
        ("sketch.jp2", _saved(colour, "JPEG2000")),
        ("sketch-tiles.j2k", _saved(clear, "JPEG2000", tile_size=(48, 48), no_jp2=True)),
        *_jpeg_xl(clear),
        ("sketch.heic", HEIC),
        ("sketch-tiles.heic", heif_bombs.tiled(3, 2)),
    ]


def _drawing(colour: Image.Image) -> bytes:
    """Return an SVG with most of what a document may have."""
    embedded = b64encode(_saved(colour.resize((12, 12)), "PNG")).decode()
    text = f"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY ns "http://www.w3.org/2000/svg">]>
<svg xmlns="&ns;" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 120 80"><defs>
<linearGradient id="g"><stop stop-color="red"/><stop offset="1" stop-color="#00f"/></linearGradient>
<filter id="f"><feTurbulence numOctaves="2"/><feGaussianBlur stdDeviation="2"/></filter>
<pattern id="p" width="9" height="9" patternUnits="userSpaceOnUse"><circle r="3"/></pattern>
<mask id="m"><rect width="90" height="60" fill="#fff"/></mask></defs>
<style>.a{{fill:url(#g);stroke:#0008;stroke-dasharray:4 2}}</style>
<rect class="a" width="120" height="80"/><g mask="url(#m)" transform="rotate(9 60 40)">
<path id="w" d="M10 40C40 0 80 90 110 30l-9 9z" fill="url(#p)" filter="url(#f)"/></g>
<use xlink:href="#w" x="5" opacity=".5"/><text x="9" y="70" font-size="12">Aß Ж</text>
<image x="80" y="40" width="30" height="30" href="data:image/png;base64,{embedded}"/></svg>"""
    return text.encode()


def _jpeg_xl(picture: Image.Image) -> Sequence[tuple[str, bytes]]:
    if find_spec("pyjpegxl") is None:  # the extra "jxl"
        return ()
    encoder = import_module("pyjpegxl")
    pixels = picture.tobytes(), *picture.size
    options = {"lossless": True, "exif": b"\0\0\0\0" + _exif().tobytes()[6:]}
    return (
        ("sketch.jxl", encoder.encode(*pixels)),
        ("sketch-boxes.jxl", encoder.encode(*pixels, **options)),
    )


def _exif() -> Image.Exif:
    """Return an orientation that swaps width and height."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _ultra_hdr(colour: Image.Image) -> bytes:
    """Return a JPEG with a gain map, by libultrahdr."""
    image = pyvips.Image.new_from_memory(colour.tobytes(), *colour.size, 3, "uchar")
    image = image.copy(interpretation="srgb")
    gains = _saved(colour.convert("L").resize((30, 30)), "JPEG")
    image.set_type(pyvips.GValue.blob_type, "gainmap-data", gains)
    image.set_type(pyvips.GValue.gint_type, "gainmap-use-base-cg", 1)
    values = {"max-content-boost": 4.0, "min-content-boost": 1.0, "gamma": 1.0}
    for name, value in (values | {"offset-sdr": 0.015625, "offset-hdr": 0.015625}).items():
        image.set_type(pyvips.GValue.array_double_type, f"gainmap-{name}", [value] * 3)
    for name, value in {"min": 1.0, "max": 4.0}.items():
        image.set_type(pyvips.GValue.gdouble_type, f"gainmap-hdr-capacity-{name}", value)
    encoded: bytes = image.uhdrsave_buffer(Q=85)
    return encoded


def _saved(picture: Image.Image, fmt: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, fmt, **options)
    return target.getvalue()
