"""Structure of files: counts their frames, and repairs those that libvips refuses or crops.

Browsers show these files.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice

from proxy.rendering.worker.imaging.animated_png import animation_of
from proxy.rendering.worker.imaging.libvips import block_limit

# Bytes of the signature and the logical screen descriptor (GIF89a, 17 and 18).
_GIF_HEADER = 13
_IMAGE, _EXTENSION = 0x2C, 0x21
_IMAGE_HEADER, _EXTENSION_HEADER = 10, 2
# RFC 9649, 2.3 and 2.4: the header of a WebP, and that of each chunk.
_RIFF_HEADER, _CHUNK_HEADER = 12, 8


def count_frames(descriptor: int, source_type: str, *, most: int) -> int:
    """Return the number of frames of a GIF, WebP, PNG or AVIF, at most ``most``.

    A still WebP has 0, an animated AVIF 2 whatever its number, every other type 1. Reads the file
    structure: the loaders of libvips list all frames when they open a file, 30 MB and 70 ms for a
    GIF of 4 MB with a quarter of a million frames, and a file may have 100 MB. A damaged file is
    counted up to the damage.

    Raises:
        SourceRefused: the file has too many blocks; see `block_limit`.
    """
    walks: Mapping[str, Callable[[mmap.mmap], Iterator[object]]]
    walks = {"gif": gif_frames, "webp": _webp_frames, "png": _png_frames, "avif": _avif_frames}
    walk = walks.get(source_type)
    if walk is None:
        return 1
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as file:
        return sum(1 for _ in islice(walk(file), most))


def gif_frames(file: mmap.mmap) -> Iterator[int]:
    """Yield the offset of each image descriptor (GIF89a, 20), up to any damage."""
    blocks = block_limit()
    with suppress(IndexError):
        at = _GIF_HEADER + colour_table(file[10])
        while file[at] in (_IMAGE, _EXTENSION):
            if file[at] == _IMAGE:
                yield at
                # The colour table and the LZW code size follow the descriptor.
                at += _IMAGE_HEADER + colour_table(file[at + 9]) + 1
            else:
                at += _EXTENSION_HEADER
            while length := file[at]:
                next(blocks)
                at += length + 1
            next(blocks)
            at += 1


def colour_table(flags: int) -> int:
    """Return the bytes of the colour table that the packed flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp_frames(file: mmap.mmap) -> Iterator[None]:
    """Yield once for each ANMF chunk (RFC 9649, 2.7.1)."""
    at = _RIFF_HEADER
    with suppress(struct.error):
        for _ in block_limit():
            name, length = struct.unpack_from("<4sI", file, at)
            if name == b"ANMF":
                yield
            # Chunks are padded to an even length.
            at += _CHUNK_HEADER + length + length % 2


def _png_frames(file: mmap.mmap) -> Iterator[int]:
    frames, _ = animation_of(file) or (1, 0)
    return iter(range(frames))


def _avif_frames(file: mmap.mmap) -> Iterator[int]:
    return iter(range(1 + (file[_BRAND] == b"avis")))


# ISO/IEC 14496-12, 4.3: the major brand follows the length and the type of the first box.
_BRAND = slice(8, 12)
# Brands that libvips recognises. Animations have ``avis``; their still image is decoded.
_KNOWN_BRANDS = (b"avif", b"mif1", b"msf1")
_RIFF_LENGTH = slice(4, 8)
# A few bytes may claim to be the start of four gigabytes.
_MAX_FILL, _MAX_GROWTH = 1024 * 1024, 64
# A graphic control extension (GIF89a, 23): the first colour of the frame is transparent.
_TRANSPARENT = bytes((_EXTENSION, 0xF9, 4, 1, 0, 0, 0, 0))
# A palette of its own with four colours.
_PALETTE, _CODE_BITS, _MAX_CODE_BITS = 0x81, 2, 12
_MAX_BLOCK = 255


def repaired(descriptor: int, source_type: str, *, max_side: int, max_pixels: int) -> bytes | None:
    """Return the bytes to decode in place of those of a file, or None if they need no repair.

    A repaired GIF has one page more, which is transparent and comes first. It is left as it is if
    its screen exceeds the limits.
    """
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as file:
        match source_type:
            case "avif" if file[_BRAND] not in _KNOWN_BRANDS:
                return file[: _BRAND.start] + b"avif" + file[_BRAND.stop :]
            case "webp":
                return _completed_webp(file)
            case "gif":
                return _on_screen(file, max_side, max_pixels)
    return None


def _completed_webp(file: mmap.mmap) -> bytes | None:
    """Return a truncated WebP as one that libwebp decodes.

    An animation ends with its last complete frame. Of an image or a first frame, what is missing is
    filled with zeros: in the arithmetic coder of VP8 they mean no detail, so the rest continues the
    colours above it. Lossless images seldom survive that, because their last code must not exceed
    the image.
    """
    at, end, declared = _RIFF_HEADER, 0, 0
    with suppress(struct.error):
        end = declared = _CHUNK_HEADER + struct.unpack_from("<I", file, 4)[0]
        while declared > len(file):
            name, length = struct.unpack_from("<4sI", file, at)
            at += _CHUNK_HEADER + length + length % 2
            # The end of the first frame, complete or not, or of the last complete one.
            if name == b"ANMF" and (at <= len(file) or end == declared):
                end = at
    # Files with more bytes than they declare are common, and decoded.
    if declared <= len(file) or end > max(_MAX_FILL, _MAX_GROWTH * len(file)):
        return None
    length = struct.pack("<I", end - _CHUNK_HEADER)
    kept = file[: _RIFF_LENGTH.start] + length + file[_RIFF_LENGTH.stop : end]
    return kept.ljust(end, b"\0")


def _on_screen(file: mmap.mmap, max_side: int, max_pixels: int) -> bytes | None:
    """Return a GIF whose first frame does not cover its screen as one whose first frame does.

    libnsgif gives an animation the size of its first frame if the screen is larger than 2048 pixels
    or has a size that monitors had, and libvips makes opaque what no frame covers. Browsers show
    the whole screen, transparent around the frames.
    """
    width, height, flags = struct.unpack_from("<HHB", file, 6)
    start = _GIF_HEADER + colour_table(flags)
    frame = next(gif_frames(file), None)
    if frame is None:
        return None
    left, top, across, down = struct.unpack_from("<4H", file, frame + 1)
    if left == top == 0 and across >= width and down >= height:
        return None
    width, height = max(width, left + across), max(height, top + down)
    if max(width, height) > max_side or width * height > max_pixels:
        return None
    descriptor = struct.pack("<B4HB", _IMAGE, 0, 0, width, height, _PALETTE) + bytes(12)
    screen = b"GIF89a" + struct.pack("<HH", width, height)
    blank = _TRANSPARENT + descriptor + _blank(width * height)
    return screen + file[len(screen) : start] + blank + file[start:]


def _blank(pixels: int) -> bytes:
    """Return the LZW data of so many pixels of the first colour, in blocks (GIF89a, appendix F)."""
    clear = 1 << _CODE_BITS
    end, first = clear + 1, clear + 2
    encoded, bits, held = bytearray(), 0, 0
    width, free = _CODE_BITS + 1, first

    def put(code: int) -> None:
        nonlocal bits, held
        bits |= code << held
        held += width
        while held >= 8:  # noqa: PLR2004 - bits of a byte
            encoded.append(bits & 0xFF)
            bits >>= 8
            held -= 8

    put(clear)
    longest = 0
    while pixels:
        # The longest run in the table and one more: the decoder adds that as it reads the code.
        run = min(longest + 1, pixels)
        put(0 if run == 1 else first + run - 2)
        pixels -= run
        longest += 1
        # The decoder adds nothing to its table for the first code.
        free += longest > 1
        if free == 1 << width:
            if width == _MAX_CODE_BITS:
                put(clear)
                width, free, longest = _CODE_BITS + 1, first, 0
            else:
                width += 1
    put(end)
    encoded.append(bits)
    blocks = (encoded[at : at + _MAX_BLOCK] for at in range(0, len(encoded), _MAX_BLOCK))
    return bytes([_CODE_BITS]) + b"".join(bytes([len(one)]) + one for one in blocks) + bytes(1)
