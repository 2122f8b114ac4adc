"""Versions of the codecs inside libvips, read from the memory that it is loaded into.

libvips tells its own version and no other. But it holds, as text, the list of the libraries that
it was built with, and some of these hold their versions: that is what runs, whatever package it
came in. A library that keeps no such text is ``unknown``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pyvips

UNKNOWN = "unknown"

CODECS = (
    *("libjpeg", "libpng", "libspng", "libwebp", "libheif", "libtiff-4", "cgif", "libjxl"),
    *("lcms2", "libexif", "zlib", "imagequant"),
)
"""What is told of the libraries that libvips may be built with: what a picture passes through."""

_LISTED = re.compile(rb" with ([A-Za-z0-9.-]+): true")
_IN_LIST = b"\nWebP load/save with libwebp: "
_VERSION = re.compile(rb"[0-9]+(?:\.[0-9A-Za-z-]+)+")
_BEHIND: Mapping[str, bytes] = MappingProxyType(
    {
        "aom": b"AOMedia Project AV1 Encoder v",
        "mozjpeg": b"mozjpeg version ",
    }
)
"""Text right behind which a version stands."""
_BEFORE: Mapping[str, tuple[bytes, bytes]] = MappingProxyType(
    {
        # What libvips tells libpng that it was built for stands before the name of that module.
        "libpng": (b"", b"\0vipspng\0"),
        "zlib": (b".zlib-ng", b"\0"),
    }
)
"""The end of a version, and what stands right behind it."""
_STAND_FOR: Mapping[str, str] = MappingProxyType({"mozjpeg": "libjpeg"})
"""Libraries that stand in for another, whose name libvips has for both."""

_PIECE_BYTES, _OVERLAP_BYTES = 64 * 1024, 4096

_MAPPED = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r--p .*/lib(?:vips|aom|jpeg|png|z)[^/]*\n")


def loaded() -> dict[str, str]:
    """The codecs of this process and their versions, by name; empty where none can be read."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return {}
    return found_in(_pieces(maps))


def _pieces(maps: str) -> Iterator[bytes]:
    """The constants of libvips, and of codecs that are libraries of their own, in small pieces.

    Small ones are copied into memory that was used before: of fresh pages all in one would take
    twice the time. They overlap by more than any text that is looked for.
    """
    for start, end in _MAPPED.findall(maps):
        address = int(start, 16)
        segment = pyvips.ffi.buffer(pyvips.ffi.cast("char *", address), int(end, 16) - address)
        for at in range(0, len(segment), _PIECE_BYTES):
            yield segment[at : at + _PIECE_BYTES + _OVERLAP_BYTES]


def found_in(pieces: Iterable[bytes]) -> dict[str, str]:
    """The codecs that are named in constants, those of unknown version too.

    What the end of a piece cuts off is taken from the next, which has it whole. Ends once there is
    nothing more to find: of what libvips has that is the first third.
    """
    versions: dict[str, str] = {}
    listed: set[str] = set()
    for constants in pieces:
        listed.update(_listed(constants))
        versions.update(_versions(constants))
        if listed and len(versions) == len(_BEHIND) + len(_BEFORE):
            break
    known = {*versions, *(_STAND_FOR.get(name, name) for name in versions)}
    return dict(sorted({**versions, **dict.fromkeys(listed - known, UNKNOWN)}.items()))


def _listed(constants: bytes) -> Iterator[str]:
    at = constants.find(_IN_LIST)
    if at >= 0:
        text = constants[constants.rfind(b"\0", 0, at) + 1 : constants.find(b"\0", at)]
        names = (name.decode() for name in _LISTED.findall(text))
        yield from (name for name in names if name in CODECS)


def _versions(constants: bytes) -> Iterator[tuple[str, str]]:
    for name, mark in _BEHIND.items():
        at = constants.find(mark)
        match = _VERSION.match(constants, at + len(mark)) if at >= 0 else None
        if match is not None:
            yield name, match[0].decode()
    for name, (end, mark) in _BEFORE.items():
        at = constants.find(end + mark)
        start = constants.rfind(b"\0", 0, max(at, 0))
        text = constants[start + 1 : at] + end
        if start >= 0 and _VERSION.fullmatch(text):
            yield name, text.decode()
