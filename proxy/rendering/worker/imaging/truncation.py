"""Finds out whether a source has all its pixels, and if not, the row where they end.

Decoders fill what is missing and report only some kinds of it. libvips refuses a JPEG that lacks
nothing but its end marker, and accepts half of one with an end marker appended.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyvips

from proxy.domain.formats import SNIFF_BYTES, sniff
from proxy.rendering.worker.imaging import load
from proxy.rendering.worker.imaging.file_structure import colour_table, gif_frames
from proxy.rendering.worker.imaging.libvips import SourceRefused, block_limit

# Rows that a decoder of libvips delivers at a time.
_STRIP = 16
# Zeros at the end of entropy-coded data that are no pixels: a download or a copy that was stopped
# leaves them where the file system had reserved the space. An arithmetic coder writes no such run.
_ZERO_RUN = 4096
# A Huffman coder may: flat areas can have codes of zero bits. See `_jpeg_row`.
_HUFFMAN_ZERO_RUN = 64
# Counting the pixels of a GIF takes a second for about this many bytes.
_MAX_COUNTED_BYTES = 4 * 1024 * 1024

Reduce = Callable[[Any], Any]
"""Returns a small image of 8 bits of a page; it is lazy and reads the page from top to bottom."""


def _drop(_page: Any) -> None:
    """Return no image."""


def check_pixels(opened: load.OpenedSource, descriptor: int, reduce: Reduce = _drop) -> Any:
    """Decode all pixels and return if none is missing; an end marker may be missing.

    If ``reduce`` could be applied to the only decode of a page, as stored, its result is returned
    in memory, otherwise None.

    Raises:
        SourceRefused: pixels are missing; the sentence has the row, as stored, if it is known.
        pyvips.Error: the pixels are damaged in another way.
    """
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as file:
        match opened.header.source_type:
            case "jpeg":
                return _check_jpeg(opened, file, reduce)
            case "gif":
                _check_gif(opened, file)
            case "png" if opened.header.pages == 1:
                _check_png(opened, file)
            case "webp":
                _check_webp(opened, file, descriptor)
            case "svg":
                # Its end has been read, and its preview shows that it can be drawn.
                pass
            case "avif" | "heic":
                _check_zeros(file, _boxes(file)[1])
                _decode(opened)
            case _:
                _decode(opened)
    return None


def missing_bytes(descriptor: int) -> int:
    """Return by how many bytes a WebP, AVIF or HEIC is shorter than its structure declares.

    Their decoders open no such file, and do not say why.
    """
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as file:
        source_type, declared = sniff(file[:SNIFF_BYTES]), 0
        with suppress(struct.error):
            if source_type == "webp":
                declared = 8 + struct.unpack_from("<I", file, 4)[0]
            elif source_type in ("avif", "heic"):
                declared = _boxes(file)[0]
        return max(0, declared - len(file))


def refused_for_missing(missing: int) -> SourceRefused:
    """Return the error for a file that is so many bytes too short."""
    detail = f"the source is truncated: missing bytes at its end: {missing:,}"
    return SourceRefused("undecodable", detail)


def _refused(row: int, height: int, reason: str) -> SourceRefused:
    # At row 0, or with interlacing, a decoder fails before it delivers a row.
    place = f"its pixels end at row {row:,} of {height:,}" if row else "its pixels are incomplete"
    return SourceRefused("undecodable", f"the source is truncated: {place}{reason}")


def _decode(opened: load.OpenedSource) -> None:
    """Decode all pixels; name the row of the first error."""
    try:
        # Not "warning": damage that a decoder repairs is common in good photographs and harmless.
        load.whole(opened, fail_on="error").avg()
    except pyvips.Error as error:
        row = _first_unread_row(opened)
        if not row:
            raise
        lines = str(error.detail).strip().splitlines() or [str(error.message)]
        raise _refused(row, opened.header.height, f" ({lines[0].strip()})") from error


def _first_unread_row(opened: load.OpenedSource) -> int:
    """Return the first row of a still image that cannot be decoded, to within 16; else 0."""
    height = opened.header.height
    region = pyvips.Region.new(load.whole(opened, fail_on="error"))
    for top in range(0, height if opened.header.pages == 1 else 0, _STRIP):
        try:
            region.fetch(0, top, opened.header.width, min(_STRIP, height - top))
        except pyvips.Error:
            return top
    return 0


def _check_zeros(file: mmap.mmap, end: int) -> None:
    if end >= _ZERO_RUN and not file[end - _ZERO_RUN : end].strip(b"\0"):
        detail = "the source is truncated: the end of its pixels is filled with zeros"
        raise SourceRefused("undecodable", detail)


# JPEG (ITU-T T.81). Markers other than stuffing and restarts, which belong to the data of a scan.
# Not ``\xff+``: a pattern that begins with one byte is searched ten times as fast.
_MARKER = re.compile(rb"\xff\xff*([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_SOI, _EOI, _SOS, _DRI, _TEM = 0xD8, 0xD9, 0xDA, 0xDD, 0x01
# Markers below it are reserved: in a scan they are damage.
_DEFINED = 0xC0
# Not arithmetic coding: T.81, D.1.8 allows an encoder to omit the zeros at the end of a scan.
_FRAMES, _PROGRESSIVE = (0xC0, 0xC1, 0xC2), 0xC2
_COEFFICIENTS = 64
_BLOCK = 8
_END = b"\xff\xd9"
_NOISE = bytes((index * index * 31 + index * 7 + 90) % 254 + 1 for index in range(2048))


@dataclass(slots=True)
class _JpegLayout:
    """Where the last scan of a JPEG is, and which coefficients its scans contain."""

    start: int = 0
    """Start of the data of the last scan; 0 if there is none."""
    end: int = 0
    """End of the data, before the marker that follows."""
    scans: int = 0
    missing_bits: dict[int, list[int]] = field(default_factory=dict)
    """Low bits of each coefficient that no scan has sent, by component."""
    frame: int = 0
    """Start of the contents of the frame header: precision, height, width, components.

    0 if no frame is coded in a way that is checked here.
    """
    progressive: bool = False
    restarts: bool = False

    @property
    def complete(self) -> bool:
        """Return whether every coefficient has been sent in full precision (T.81, G.1.1.1)."""
        return not any(any(bits) for bits in self.missing_bits.values())


def _jpeg_layout(file: mmap.mmap) -> _JpegLayout:
    """Return the layout of the first image of a file; other images or any bytes may follow it."""
    layout, at = _JpegLayout(), 2
    with suppress(struct.error, IndexError):
        for _ in block_limit():
            if not (found := _MARKER.search(file, at)):
                break
            marker, at = found[1][0], found.end()
            if layout.scans and layout.restarts and marker < _DEFINED:
                continue  # decoders resume at the next restart
            if layout.scans and not layout.end:
                layout.end = found.start()
            # Without an end marker, bytes that follow the last scan may look like markers.
            if marker in (_SOI, _EOI) or (layout.scans and layout.frame and layout.complete):
                return layout
            if marker == _TEM:
                continue
            (length,) = struct.unpack_from(">H", file, at)
            segment = file[at + 2 : at + length]
            at += length
            if marker in _FRAMES and not layout.scans:
                layout.frame, layout.progressive = at - length + 2, marker == _PROGRESSIVE
                ids = segment[6 : 6 + 3 * segment[5] : 3]
                layout.missing_bits = {one: [1] * _COEFFICIENTS for one in ids}
            elif marker == _DRI:
                layout.restarts = any(segment)
            elif marker == _SOS and _add_scan(layout, segment):
                layout.start, layout.end, layout.scans = at, 0, layout.scans + 1
    # The file ends within the data of a scan, or within the header of a segment.
    layout.end = layout.end or len(file)
    return layout


def _add_scan(layout: _JpegLayout, segment: bytes) -> bool:
    """Record what a scan contains; return False if it is none of this frame."""
    count = segment[0]
    components = segment[1 : 1 + 2 * count : 2]
    first, last, low_bit = segment[1 + 2 * count], segment[2 + 2 * count], segment[3 + 2 * count]
    if layout.frame and not (components and set(components) <= set(layout.missing_bits)):
        return False
    for one in components if layout.frame else b"":
        sent = layout.missing_bits[one]
        if layout.progressive:
            sent[first : last + 1] = [low_bit & 15] * len(sent[first : last + 1])
        else:
            # A sequential scan contains everything (T.81, B.2.3). Decoders ignore the three values,
            # and some cameras write others than 0, 63 and 0.
            sent[:] = [0] * _COEFFICIENTS
    return True


def _check_jpeg(opened: load.OpenedSource, file: mmap.mmap, reduce: Reduce) -> Any:
    layout, height = _jpeg_layout(file), opened.header.height
    zeros = file[max(layout.start, layout.end - _HUFFMAN_ZERO_RUN) : layout.end].strip(b"\0") == b""
    if not layout.scans or not layout.frame:
        _decode(opened)
        return None
    content = file[: layout.end].rstrip(b"\xff")
    if layout.complete and not zeros:
        with suppress(_Uncertain):
            return _reduced(content, layout, height, reduce)
    row = _jpeg_row(content, layout.start, height, zeros=zeros)
    if not layout.complete:
        detail = f"the source is truncated: its data ends in scan {layout.scans}"
        detail += f" at row {row:,} of {height:,}" if row < height else ""
        raise SourceRefused("undecodable", f"{detail}, and later scans are missing")
    if row < height:
        raise _refused(row, height, "")
    return None


class _Uncertain(Exception):
    """One decode does not show that all pixels are there."""


def _reduced(content: bytes, layout: _JpegLayout, height: int, reduce: Reduce) -> Any:
    """Decode a JPEG once, and return what ``reduce`` makes of it if no pixel is missing.

    The decoder warns when it needs a bit after the end of the data. libvips tests for a warning
    before it reads the next rows, so one in the last row of blocks must come earlier, or the image
    must have more rows.

    Raises:
        _Uncertain: the decoder warned or failed, or a warning in the last rows could not have been
            noticed.
    """
    if layout.scans == 1:
        height, width, count = struct.unpack_from(">HHB", content, layout.frame + 1)
        factors = content[layout.frame + 7 : layout.frame + 6 + 3 * count : 3]
        across, down = {one >> 4 for one in factors}, {one & 15 for one in factors}
        if count == 1 or down == {1}:
            # Rows of blocks are decoded one by one. There is no data for one more, whose own
            # warning comes too late to be seen.
            frame = bytearray(content[layout.frame : layout.frame + 6 + 3 * count])
            struct.pack_into(">H", frame, 1, (height + _BLOCK - 1) // _BLOCK * _BLOCK + _BLOCK)
            if count == 1:
                frame[7] = 0x11  # its factors have no meaning
            content = content[: layout.frame] + frame + content[layout.frame + len(frame) :]
        elif not (down == {1, 2} and across <= {1, 2} and min(width, height) > 2 * _BLOCK):
            raise _Uncertain
        # Otherwise chroma is interpolated between rows: the last row of blocks is decoded together
        # with the row before it.
    try:
        image = _from_memory(content + _END, "warning")
        # Sequential access decodes all rows before the last one.
        last = image.crop(0, image.height - 1, image.width, 1)[0]
        # A page that has to be turned would be read before the last row, and read only once.
        upright = not image.get_typeof("orientation") or image.get("orientation") == 1
        small = reduce(image.crop(0, 0, image.width, height)) if upright else None
        if small is None:
            last.avg()
            return None
        # In one image, so that one decode makes both.
        width = min(small.width, last.width)
        both = small.join(last.crop(0, 0, width, 1), "vertical", expand=True).copy_memory()
        return both.crop(0, 0, small.width, small.height).copy_memory()
    except pyvips.Error as error:
        raise _Uncertain from error


def _jpeg_row(content: bytes, start: int, height: int, *, zeros: bool) -> int:
    """Return the first row that the data of the last scan does not define, or the height."""
    row = _first_open_row(content, start, height)
    if not zeros:
        return row
    # A flat area may end in codes of zero bits, which are needed to the last byte. Zeros that
    # replace lost data are too many or too few.
    data = content[:start] + content[start:].rstrip(b"\0").rstrip(b"\xff")
    if row < height or _first_open_row(content[:-2], start, height) == height:
        return min(row, _first_open_row(data, start, height))
    return height


def _first_open_row(content: bytes, start: int, height: int) -> int:
    """Return the first row that changes with the bytes after ``content``; else the height.

    A decoder reads no further than its last pixel needs. So what follows the data of a scan
    matters only if pixels are missing, whatever the decoder fills them with. This holds for all
    Huffman-coded scans and does not depend on the wording of a warning.
    """
    found = max(content.rfind(bytes((0xFF, 0xD0 + index)), start) for index in range(8))
    following = 0xD0 + (0 if found < 0 else (content[found + 1] + 1) % 8)
    restart = bytes((0xFF, following))
    ended = _row_checksums(content + _END, "error")
    # One of two opposite noises differs from whatever a decoder fills in. Without 0xFF, and again
    # after a restart marker, which is next if a restart interval is complete.
    noises = _NOISE, bytes(byte ^ 0xFF for byte in _NOISE)
    # One after the other: a progressive JPEG of 100 megapixels is decoded in 600 MB.
    first, second = (
        _row_checksums(content + noise + restart + noise + _END, "none") for noise in noises
    )
    rows = enumerate(zip(ended, first, second, strict=True))
    row = next((row for row, checksums in rows if len(set(checksums)) > 1), height)
    # Interpolated chroma changes up to one row before the block in which the data ends.
    return row if row == height else (row + 1) // _BLOCK * _BLOCK


def _row_checksums(content: bytes, fail_on: str) -> list[int]:
    image = _from_memory(content, fail_on)
    region, checksums = pyvips.Region.new(image), []
    for top in range(0, image.height, _STRIP):
        rows = min(_STRIP, image.height - top)
        strip = memoryview(region.fetch(0, top, image.width, rows))
        size = len(strip) // rows
        checksums += [zlib.crc32(strip[at : at + size]) for at in range(0, len(strip), size)]
    return checksums


def _from_memory(content: bytes, fail_on: str) -> Any:
    return pyvips.Image.new_from_buffer(content, "", access="sequential", fail_on=fail_on)


# PNG (third edition, 5.3): length and type before the data of a chunk, CRC after it.
_PNG_SIGNATURE, _CHUNK_HEADER, _CRC = 8, 8, 4


def _check_png(opened: load.OpenedSource, file: mmap.mmap) -> None:
    at = _PNG_SIGNATURE
    with suppress(struct.error, pyvips.Error):
        for _ in block_limit():
            length, name = struct.unpack_from(">I4s", file, at)
            end = at + _CHUNK_HEADER + length
            if name == b"IDAT" and end <= len(file) < end + _CRC:
                # Only the checksum behind the last pixels was cut off.
                checksum = zlib.crc32(file[at + 4 : end]).to_bytes(_CRC, "big")
                _from_memory(file[:end] + checksum, "error").avg()
                return
            at = end + _CRC
    _decode(opened)


# LZW codes of a GIF have at most 12 bits (GIF89a, appendix F).
_MAX_CODE_BITS = 12
_INTERLACED = 0x40


def _check_gif(opened: load.OpenedSource, file: mmap.mmap) -> None:
    # A file that ends early ends in its last frame.
    at = max(gif_frames(file), default=0)
    with suppress(struct.error, IndexError):
        width, rows, flags = struct.unpack_from("<HHB", file, at + 5)
        start = at + 10 + colour_table(flags)
        codes = _sub_blocks(file, start + 1)
        if width and rows and codes and len(codes) <= _MAX_COUNTED_BYTES:
            row = _lzw_pixels(codes, file[start], most=width * rows) // width
            if row < rows:
                frames = opened.header.pages > 1
                place = f" in frame {opened.header.pages}" if frames else ""
                raise _refused(_interlaced(rows)[row] if flags & _INTERLACED else row, rows, place)
            _decode_gif(opened)
            return
    _decode(opened)


def _decode_gif(opened: load.OpenedSource) -> None:
    """Decode a GIF whose last frame is complete; what follows it may be missing."""
    try:
        load.whole(opened, fail_on="error").avg()
    except pyvips.Error as error:
        if "Unexpected end of GIF" not in str(error):
            raise


def _interlaced(rows: int) -> list[int]:
    """Return the rows of an interlaced frame in the order of the file (GIF89a, appendix E)."""
    passes = ((0, 8), (4, 8), (2, 4), (1, 2))
    return [row for first, step in passes for row in range(first, rows, step)]


def _sub_blocks(file: mmap.mmap, at: int) -> bytes:
    blocks = bytearray()
    while at < len(file) and (length := file[at]):
        blocks += file[at + 1 : at + 1 + length]
        at += 1 + length
    return bytes(blocks)


def _lzw_pixels(codes: bytes, code_bits: int, *, most: int) -> int:
    """Return how many pixels LZW codes contain, at most ``most`` (GIF89a, appendix F)."""
    clear = 1 << code_bits
    literals = [1] * clear + [0, 0]
    # Pixels of each code in the table; what they are does not matter here.
    lengths, width, previous, pixels = literals[:], code_bits + 1, 0, 0
    bits = available = 0
    for byte in codes:
        bits |= byte << available
        available += 8
        while available >= width and pixels < most:
            code = bits & (1 << width) - 1
            bits >>= width
            available -= width
            if code == clear:
                lengths, width, previous = literals[:], code_bits + 1, 0
                continue
            # The end code, or one that is not in the table yet.
            if code == clear + 1 or code > len(lengths) - (not previous):
                return pixels
            found = lengths[code] if code < len(lengths) else previous + 1
            if previous and len(lengths) < 1 << _MAX_CODE_BITS:
                lengths.append(previous + 1)
                width += len(lengths) == 1 << width and width < _MAX_CODE_BITS
            pixels += found
            previous = found
    return min(pixels, most)


# RFC 9649, 2.3 to 2.7.
_RIFF_HEADER = 12
_ANIMATION = 2
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")


def _check_webp(opened: load.OpenedSource, file: mmap.mmap, descriptor: int) -> None:
    end, missing = _webp_data_end(file), missing_bytes(descriptor)
    # After the last complete frame of an animation, the missing bytes may be further frames.
    animated = file[12:16] == b"VP8X" and bool(file[20] & _ANIMATION)
    if missing and (end > len(file) or animated):
        raise refused_for_missing(missing)
    _check_zeros(file, end)
    _decode(opened)


def _webp_data_end(file: mmap.mmap) -> int:
    """Return where the last chunk of pixels ends or should end; metadata may follow it."""
    at, end = _RIFF_HEADER, 0
    with suppress(struct.error):
        while True:
            name, length = struct.unpack_from("<4sI", file, at)
            at += _CHUNK_HEADER + length + length % 2
            if name in _WEBP_PIXELS:
                end = at
    return end


def _boxes(file: mmap.mmap) -> tuple[int, int]:
    """Return the ends of all boxes and of the last ``mdat`` (ISO/IEC 14496-12, 4.2)."""
    at = data_end = 0
    with suppress(struct.error):
        while at < len(file):
            length, name = struct.unpack_from(">I4s", file, at)
            # 1: the length is in the next 64 bits; 0: the box extends to the end of the file.
            if length == 1:
                (length,) = struct.unpack_from(">Q", file, at + 8)
            if 0 < length < _CHUNK_HEADER:
                break
            at = at + length if length else len(file)
            if name == b"mdat":
                data_end = min(at, len(file))
    return at, data_end
