"""Frames of an animation, counted on the file's own structure before a decoder sees it.

libvips' loaders list all frames of a file as they open it: those of a GIF of 4 MB that holds a
quarter of a million take 30 MB and 70 ms, and a file may have 100 MB. Counting ends at the limit.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from itertools import islice

_SCREEN = 13
"""Bytes of signature and logical screen descriptor of a GIF (GIF89a, 17 and 18)."""
_IMAGE, _EXTENSION = 0x2C, 0x21
_IMAGE_HEAD, _EXTENSION_HEAD = 10, 2
_RIFF_HEAD, _CHUNK_HEAD = 12, 8


def count(descriptor: int, source_type: str, *, most: int) -> int:
    """How many frames a GIF or a WebP has, but no more than ``most``; 1 for all other types.

    What is damaged is counted up to the damage.
    """
    walk = {"gif": _gif_frames, "webp": _webp_frames}.get(source_type)
    if walk is None:
        return 1
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as file:
        return sum(1 for _ in islice(_whole_ones(walk(file)), most))


def _whole_ones(frames: Iterator[None]) -> Iterator[None]:
    """Frames up to where the file ends in the middle of something."""
    try:
        yield from frames
    except (IndexError, struct.error):
        return


def _gif_frames(file: mmap.mmap) -> Iterator[None]:
    """One for each image descriptor (GIF89a, 20)."""
    at = _SCREEN + _colour_table(file[10])
    while True:
        match file[at]:
            case kind if kind == _IMAGE:
                yield
                # Behind descriptor and colours, the code size of its LZW data.
                at += _IMAGE_HEAD + _colour_table(file[at + 9]) + 1
            case kind if kind == _EXTENSION:
                at += _EXTENSION_HEAD
            case _:
                return
        while length := file[at]:
            at += length + 1
        at += 1


def _colour_table(flags: int) -> int:
    """Bytes of the colour table that packed fields announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp_frames(file: mmap.mmap) -> Iterator[None]:
    """One for each ANMF chunk (RFC 9649, 2.7.1)."""
    at = _RIFF_HEAD
    while True:
        name, length = struct.unpack_from("<4sI", file, at)
        if name == b"ANMF":
            yield
        at += _CHUNK_HEAD + length + length % 2
