"""Frames of an animated PNG (third edition, 4.9 and 11.3.4), of which libvips decodes one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from mmap import mmap
from typing import Any

import pyvips

from proxy.rendering.worker.imaging.libvips import block_limit

Buffer = bytes | mmap
"""A file."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_CRC_BYTES, _SEQUENCE_BYTES = 4, 4
_CONTROL = struct.Struct(">IIIIIHHBB")
_ANIMATION = struct.Struct(">II")
# Chunks that the pixels of every frame depend on.
_SHARED = (b"PLTE", b"tRNS")
_DISPOSE_BACKGROUND, _DISPOSE_PREVIOUS = 1, 2
_BLEND_OVER = 1
_DEFAULT_UNITS_S = 100
# Chunks read to count frames (50 ms). For files with more, the declared number of frames is used.
_MAX_CHUNKS = 100_000
_RGB, _RGBA = 3, 4


@dataclass(slots=True)
class _Frame:
    width: int
    height: int
    left: int
    top: int
    delay_ms: int
    dispose: int
    blend: int
    pixels: list[bytes] = field(default_factory=list)
    """Parts of the compressed data."""


def animation_of(file: Buffer) -> tuple[int, int] | None:
    """Return the number of frames and of repetitions, or None for a still image.

    If the file is complete, only frames that it contains are counted: browsers show a file that
    declares more, and one that declares an animation without any frame is a still image.
    """
    declared = loop = found = 0
    for name, start, length in islice(_places(file), _MAX_CHUNKS):
        if name == b"acTL" and not declared and length >= _ANIMATION.size:
            with suppress(struct.error):
                declared, loop = _ANIMATION.unpack_from(file, start)
        elif name == b"fcTL":
            found += 1
        elif name == b"IDAT" and not declared:
            break
        elif name == b"IEND":
            declared = min(declared, found)
        if found >= declared > 0 or name == b"IEND":
            break
    return (declared, loop) if declared > 1 else None


def size_of(file: Buffer) -> tuple[int, int]:
    """Return width and height of the canvas; (0, 0) if the header is missing."""
    name, content = next(_chunks(file), (b"", b""))
    return struct.unpack_from(">II", content) if name == b"IHDR" else (0, 0)


def decoded_frames(file: bytes, *, most: int, strict: bool) -> Iterator[tuple[Any, int]]:
    """Yield each frame as it is shown, in RGBA and in memory, with its delay in milliseconds.

    At most ``most`` and at most the declared number. Unless ``strict``, a damaged animation ends
    with its last complete frame, and of the first what can be decoded is shown.

    Raises:
        pyvips.Error: no frame can be decoded; if strict, one is missing or damaged.
    """
    declared, _ = animation_of(file) or (0, 0)
    canvas = _transparent(*size_of(file))
    head = b"".join(_chunk(name, content) for name, content in _chunks(file) if name in _SHARED)
    shown = 0
    for frame in islice(_frames(file), min(most, declared)):
        try:
            after = _drawn(canvas, frame, _still(file, frame, head, strict=strict or shown > 0))
        except pyvips.Error:
            if strict or not shown:
                raise
            return
        yield after, frame.delay_ms
        shown += 1
        if frame.dispose == _DISPOSE_BACKGROUND:
            blank = _transparent(frame.width, frame.height)
            canvas = after.insert(blank, frame.left, frame.top).copy_memory()
        elif frame.dispose != _DISPOSE_PREVIOUS:
            canvas = after
    if not shown or (strict and shown < min(most, declared)):
        raise pyvips.Error("animated PNG", f"{shown} of {declared} frames are there")


def _drawn(canvas: Any, frame: _Frame, page: Any) -> Any:
    if frame.blend == _BLEND_OVER:
        below = canvas.crop(frame.left, frame.top, frame.width, frame.height)
        page = below.composite2(page, "over").cast("uchar")
    return canvas.insert(page, frame.left, frame.top).copy_memory()


def _still(file: bytes, frame: _Frame, head: bytes, *, strict: bool) -> Any:
    """Decode the pixels of a frame as a PNG of their own."""
    _, header = next(_chunks(file))
    size = struct.pack(">II", frame.width, frame.height)
    parts = ((b"IHDR", size + header[len(size) :]), (b"IDAT", b"".join(frame.pixels)))
    first, data = (_chunk(*part) for part in parts)
    png = _SIGNATURE + first + head + data + _chunk(b"IEND", b"")
    page = pyvips.Image.new_from_buffer(png, "", fail_on="error" if strict else "none")
    page = page.colourspace("srgb")
    page = page.addalpha() if page.bands == _RGB else page
    return page.cast("uchar").copy_memory()


def _frames(file: bytes) -> Iterator[_Frame]:
    """Yield the complete frames, up to any damage of the structure."""
    width, height = size_of(file)
    frame: _Frame | None = None
    for name, content in _chunks(file):
        if name == b"fcTL":
            if frame is not None:
                yield frame
            frame = _controlled(content, width, height)
            if frame is None:
                return
        # A default image before the first control chunk is not a frame.
        elif name == b"IDAT" and frame is not None:
            frame.pixels.append(content)
        elif name == b"fdAT" and frame is not None:
            frame.pixels.append(content[_SEQUENCE_BYTES:])
    if frame is not None and frame.pixels:
        yield frame


def _controlled(content: bytes, width: int, height: int) -> _Frame | None:
    """Return the frame that a control chunk announces, or None if it is not within the canvas."""
    with suppress(struct.error):
        _, across, down, left, top, number, unit, dispose, blend = _CONTROL.unpack_from(content)
        if across and down and left + across <= width and top + down <= height:
            delay_ms = round(1000 * number / (unit or _DEFAULT_UNITS_S))
            return _Frame(across, down, left, top, delay_ms, dispose, blend)
    return None


def _places(file: Buffer) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and length of the content of each chunk; the last may be incomplete."""
    at = len(_SIGNATURE)
    for _ in block_limit():
        if at + _CHUNK.size > len(file):
            return
        length, name = _CHUNK.unpack_from(file, at)
        at += _CHUNK.size
        yield name, at, length
        at += length + _CRC_BYTES


def _chunks(file: Buffer) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk; that of the last may be incomplete."""
    for name, start, length in _places(file):
        yield name, file[start : start + length]


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return _CHUNK.pack(len(content), name) + content + checksum.to_bytes(_CRC_BYTES, "big")


def _transparent(width: int, height: int) -> Any:
    blank = pyvips.Image.black(width, height, bands=_RGBA)
    return blank.copy(interpretation="srgb").copy_memory()
