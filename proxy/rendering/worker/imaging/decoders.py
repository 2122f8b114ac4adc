"""Sources that libvips does not decode, decoded in memory by other libraries.

Pillow decodes BMP, ICO, JPEG 2000 and the frames of AVIF, pyjpegxl decodes JPEG XL. Only workers
that are started for these types import this module, see `load.use_decoders`.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import pyvips
from PIL import AvifImagePlugin, BmpImagePlugin, IcoImagePlugin, Image, ImageFile, Jpeg2KImagePlugin
from PIL.ImageOps import exif_transpose

from proxy.domain.worker_protocol import Limits
from proxy.rendering.worker.imaging import colour
from proxy.rendering.worker.imaging.jxl_header import has_premultiplied_alpha
from proxy.rendering.worker.imaging.libvips import unpremultiplied
from proxy.rendering.worker.imaging.load import (
    Header,
    LoadedFrames,
    OpenedSource,
    check_header,
    content_of,
)

try:
    import pyjpegxl
except ImportError:  # the extra "jxl"
    pyjpegxl = None  # type: ignore[assignment]
else:
    pyjpegxl.set_num_threads(1)  # as in `libvips.configure`

# The limits of the settings apply, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
warnings.filterwarnings("ignore", module=r"PIL\.")

# What Pillow and pyjpegxl raise for damaged files.
_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error),
    *(LookupError, ArithmeticError, TypeError, AttributeError, AssertionError),
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Layout of pixels in libvips."""

    bands: int
    number_type: str
    interpretation: str

    @property
    def band_bytes(self) -> int:
        return 2 if self.number_type == "ushort" else 1


_LAYOUTS: Mapping[str, _Layout] = MappingProxyType(
    {
        "L": _Layout(1, "uchar", "b-w"),
        "LA": _Layout(2, "uchar", "b-w"),
        "RGB": _Layout(3, "uchar", "srgb"),
        "RGBA": _Layout(4, "uchar", "srgb"),
        "CMYK": _Layout(4, "uchar", "cmyk"),
        "I;16": _Layout(1, "ushort", "grey16"),
    }
)
"""Of the modes of Pillow that are passed on."""
_CONVERTED: Mapping[str, str] = MappingProxyType({"1": "L", "PA": "RGBA"})
_WIDE_BITS, _GREY_BANDS = 8, 1
_OPAQUE = 255
_STRIP_PIXELS = 2**20


@dataclass(frozen=True, slots=True)
class _Read:
    """What is known of a source by its header."""

    width: int
    height: int
    layout: _Layout
    decode: Callable[[int, str], LoadedFrames]
    pages: int = 1
    profile: bytes = b""


def open_decoded(descriptor: int, source_type: str, limits: Limits) -> OpenedSource:
    """Open a source as `load.open_source` does; ``source_type`` is that of `sniff`.

    Raises:
        SourceRefused: a limit is exceeded.
        OSError: the descriptor cannot be read.
        pyvips.Error: the header cannot be read.
    """
    content = content_of(descriptor)
    with _translated(source_type):
        read = _READERS[source_type](content)
    layout = read.layout
    header = Header(
        source_type,
        read.width,
        read.height,
        layout.bands,
        layout.band_bytes,
        pages=read.pages,
        rotated=False,
    )
    check_header(header, limits)
    if not read.width or not read.height:
        raise pyvips.Error(f"unable to decode {source_type}", "it has no pixels")
    empty = bytes(layout.bands * layout.band_bytes)
    pixel = colour.with_profile(_image(empty, (1, 1), layout), read.profile)
    # The decoder has widened narrow levels of AVIF already, and divided colours by their alpha.
    found = colour.read(pixel, descriptor, source_type)
    found = replace(found, narrow=False, premultiplied=False)
    decode = partial(_decoded, source_type, read)
    return OpenedSource(None, replace(header, colour=found), descriptor, decode=decode)


def _decoded(source_type: str, read: _Read, most: int, fail_on: str) -> LoadedFrames:
    # Pillow has no parameter for it. Of a damaged JPEG 2000 without tiles it would return black.
    ImageFile.LOAD_TRUNCATED_IMAGES = fail_on == "none" and source_type != "jp2"
    with _translated(source_type):
        found = read.decode(most, fail_on)
    if any((page.width, page.height) != (read.width, read.height) for page in found.pages):
        raise pyvips.Error(f"unable to decode {source_type}", "its size is not that of its header")
    return replace(found, pages=[colour.with_profile(page, read.profile) for page in found.pages])


@contextmanager
def _translated(source_type: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise pyvips.Error(f"unable to decode {source_type}", str(error)) from error


def _image(pixels: bytes | bytearray, size: tuple[int, int], layout: _Layout) -> Any:
    width, height = size
    # The first image refers to ``pixels``, which does not exist after this call.
    page = pyvips.Image.new_from_memory(pixels, width, height, layout.bands, layout.number_type)
    return page.copy(interpretation=layout.interpretation).copy_memory()


def _mode(image: Image.Image) -> str:
    """Return the mode in which an image of Pillow is passed on."""
    if image.mode == "P":
        palette = image.palette.mode if image.palette else "RGB"
        return "RGBA" if "transparency" in image.info or palette == "RGBA" else "RGB"
    return image.mode if image.mode in _LAYOUTS else _CONVERTED.get(image.mode, "RGB")


def _page(image: Image.Image) -> Any:
    mode, (width, height) = _mode(image), image.size
    image.load()
    if image.format == "BMP" and _invisible(image):
        # Some programs write 0 into all alpha bytes. Browsers then show the image opaque.
        image.putalpha(_OPAQUE)
    pixels = bytearray()
    # In strips: Pillow would make two copies of the whole.
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels += (strip if strip.mode == mode else strip.convert(mode)).tobytes()
    return _image(pixels, image.size, _LAYOUTS[mode])


def _still(open_image: Callable[[], Image.Image], profile: bytes) -> _Read:
    """Return the header as Pillow reads it; each decode opens the file again."""
    image = open_image()
    layout = _LAYOUTS[_mode(image)]
    return _Read(
        *image.size, layout, lambda *_: LoadedFrames([_page(open_image())]), profile=profile
    )


# BITMAPV5HEADER after the header of the file: its length, its colour space, and where its profile
# is, from the start of the header.
_BMP_HEADER, _BMP_V5_BYTES = 14, 124
_BMP_SPACE, _BMP_PROFILE, _BMP_EMBEDDED = 56, 112, b"DEBM"


def _read_bmp(content: bytes) -> _Read:
    profile = b""
    header = content[_BMP_HEADER:]
    if len(header) >= _BMP_V5_BYTES and header[:1] == bytes([_BMP_V5_BYTES]):
        start, length = struct.unpack_from("<II", header, _BMP_PROFILE)
        if header[_BMP_SPACE : _BMP_SPACE + 4] == _BMP_EMBEDDED:
            profile = header[start : start + length]
    return _still(partial(_open_bmp, content), profile)


def _open_bmp(content: bytes) -> Image.Image:
    return BmpImagePlugin.BmpImageFile(io.BytesIO(content))


def _invisible(image: Image.Image) -> bool:
    """Return whether nothing of an image is visible; it is decoded for that."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


class RunLengthDecoder(ImageFile.PyDecoder):
    """Decodes compressed BMP ([MS-WMF] 3.1.6), in place of Pillow's, which loops over pixels."""

    _pulls_fd = True

    def decode(self, _buffer: object) -> tuple[int, int]:
        """Decode everything; pixels that the file does not define have the first colour.

        Raises:
            ValueError: the file ends early.
        """
        mode, four_bits, direction = self.args
        rows = bytearray(self.state.xsize * self.state.ysize)
        try:
            self._fill(rows, four_bits=four_bits)
        except (ValueError, OSError):
            # Pillow's own decoders do the same.
            if not ImageFile.LOAD_TRUNCATED_IMAGES:
                raise
        self.set_as_raw(bytes(rows), "L" if mode in ("1", "L") else "P", (0, direction))
        return -1, 0

    def _fill(self, rows: bytearray, *, four_bits: bool) -> None:
        file, width = self.fd, self.state.xsize
        if file is None:
            raise ValueError("no file")
        left = row = 0
        while row < self.state.ysize:
            count, value = file.read(2)
            if count:
                run = bytes((value >> 4, value & 15)) if four_bits else bytes((value,))
                run = (run * count)[:count]
            elif value == _END_OF_LINE:
                left, row = 0, row + 1
                continue
            elif value == _END_OF_BITMAP:
                return
            elif value == _DELTA:
                right, up = file.read(2)
                left, row = left + right, row + up
                continue
            else:
                # Padded to an even number of bytes.
                length = (value + 1) // 2 if four_bits else value
                run = ImageFile._safe_read(file, length + length % 2)  # noqa: SLF001
                if four_bits:
                    run = bytes(part for byte in run for part in (byte >> 4, byte & 15))
                run = run[:value]
            # What exceeds the row is ignored.
            kept = run[: max(0, width - left)]
            start = row * width + left
            rows[start : start + len(kept)] = kept
            left += len(kept)


_END_OF_LINE, _END_OF_BITMAP, _DELTA = 0, 1, 2
# Pillow passes the mode of the pixels, whether they have 4 bits, and their direction.
Image.register_decoder("bmp_rle", RunLengthDecoder)


_ICON_COUNT, _ICON_HEADER, _ICON_ENTRY = 4, 6, struct.Struct("<BBBBHHII")
_PNG = b"\x89PNG\r\n\x1a\n"


def _read_ico(content: bytes) -> _Read:
    """Read the largest image of an icon, of equal ones that with the most colours."""
    (count,) = struct.unpack_from("<H", content, _ICON_COUNT)
    entries = [
        _ICON_ENTRY.unpack_from(content, _ICON_HEADER + at * _ICON_ENTRY.size)
        for at in range(count)
    ]
    # Width, height (0: 256) and bits per pixel; `IcoFile` sorts in the same way.
    *_, length, start = max(entries, key=lambda one: ((one[0] or 256) * (one[1] or 256), one[5]))
    if content[start : start + len(_PNG)] == _PNG:
        image = pyvips.Image.new_from_buffer(content[start : start + length], "")
        layout = _Layout(image.bands, image.format, image.interpretation)
        png = content[start : start + length]
        decode = partial(_png_page, png)
        return _Read(image.width, image.height, layout, decode)
    return _icon_bitmap(content, start, length)


def _png_page(png: bytes, _most: int, fail_on: str) -> LoadedFrames:
    page = pyvips.Image.new_from_buffer(png, "", fail_on=fail_on).copy_memory()
    # Browsers ignore the Exif of an icon, and the header has the size as stored.
    page.remove("orientation")
    return LoadedFrames([page])


def _icon_bitmap(content: bytes, start: int, length: int) -> _Read:
    # The bitmap has twice the height: a mask of one bit per pixel follows.
    width, height = BmpImagePlugin.DibImageFile(io.BytesIO(content[start:])).size
    height //= 2
    file = IcoImagePlugin.IcoFile(io.BytesIO(content))
    index = next(at for at, one in enumerate(file.entry) if one.offset == start)
    header, _, _, _, bits, _ = _DIB_HEADER.unpack_from(content, start)
    if header >= _DIB_HEADER_BYTES:
        # Pillow decides by the directory whether there is an alpha, browsers by the bitmap. Many
        # programs write 0 into the directory.
        file.entry[index] = file.entry[index]._replace(bpp=bits)

    def decode(_most: int, _fail_on: str) -> LoadedFrames:
        image = file.frame(index).convert("RGBA")
        if _invisible(image):
            # Some programs write 0 into all alpha bytes. Browsers then apply the mask.
            alpha = _icon_alpha(content[start : start + length], width, height)
            image.putalpha(alpha or image.getchannel("A"))
        return LoadedFrames([_page(image)])

    return _Read(width, height, _LAYOUTS["RGBA"], decode)


# BITMAPINFOHEADER: its length, bits per pixel, compression; masks of the colours may follow.
_DIB_HEADER = struct.Struct("<IiiHHI")
_DIB_HEADER_BYTES = 40
_DIB_BITS, _DIB_FIELDS, _DIB_MASKS = 32, (_DIB_HEADER_BYTES, 3), 12
_MASK_ROW_BITS = 32


def _icon_alpha(bitmap: bytes, width: int, height: int) -> Image.Image | None:
    """Return the alpha that the mask after the pixels of a bitmap defines; None if not of 32 bits.

    A set bit of the mask makes its pixel transparent. If the mask is incomplete, all are opaque.
    """
    header, _, _, _, bits, compression = _DIB_HEADER.unpack_from(bitmap)
    if bits != _DIB_BITS:
        return None
    row = -(-width // _MASK_ROW_BITS) * _MASK_ROW_BITS // 8
    start = header + 4 * width * height
    start += _DIB_MASKS if (header, compression) == _DIB_FIELDS else 0
    mask = bitmap[start : start + row * height]
    if len(mask) < row * height:
        return Image.new("L", (width, height), _OPAQUE)
    return Image.frombytes("1", (width, height), mask, "raw", "1;I", row, -1).convert("L")


def _read_jp2(content: bytes) -> _Read:
    return _still(
        lambda: Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(content)), _jp2_profile(content)
    )


_BOX = struct.Struct(">I4s")
_MAX_BOXES = 64
# Method of ``colr`` (ISO/IEC 15444-1, I.5.3.3): a restricted or any ICC profile.
_JP2_PROFILES = (2, 3)


def _jp2_profile(content: bytes) -> bytes:
    for name, body in _boxes(content):
        if name == b"jp2h":
            for inner, colr in _boxes(body):
                if inner == b"colr" and colr[0] in _JP2_PROFILES:
                    return colr[3:]
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each box (ISO/IEC 14496-12, 4.2)."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + _BOX.size > len(content):
            return
        length, name = _BOX.unpack_from(content, at)
        start = at + _BOX.size
        # 1: the length is in the next 64 bits; 0: the box extends to the end of the file.
        if length == 1:
            (length,) = struct.unpack_from(">Q", content, start)
            start += 8
        at = at + length if length else len(content)
        if at < start:
            return
        yield name, content[start:at]


_JXL_CODESTREAM, _JXL_INDEX_BYTES = b"\xff\x0a", 4


def _codestream(content: bytes) -> bytes:
    """Return the coded image without its container (ISO/IEC 18181-2).

    For other boxes the decoder allocates as many bytes as they claim to have, and aborts the
    process if it cannot.
    """
    if content.startswith(_JXL_CODESTREAM):
        return content
    found = dict(_boxes(content))
    parts = (body[_JXL_INDEX_BYTES:] for name, body in _boxes(content) if name == b"jxlp")
    return found.get(b"jxlc") or b"".join(parts)


def _read_jxl(content: bytes) -> _Read:
    content = _codestream(content)
    found = pyjpegxl.probe(content)
    wide = found.bits_per_sample > _WIDE_BITS
    grey = found.num_color_channels == _GREY_BANDS
    spaces = ("grey16" if wide else "b-w") if grey else ("rgb16" if wide else "srgb")
    bands = found.num_color_channels + found.has_alpha
    layout = _Layout(bands, "ushort" if wide else "uchar", spaces)
    decode = partial(_jxl_page, content, layout)
    return _Read(found.width, found.height, layout, decode, profile=found.icc or b"")


def _jxl_page(content: bytes, layout: _Layout, _most: int, _fail_on: str) -> LoadedFrames:
    dtype = "uint16" if layout.number_type == "ushort" else "uint8"
    found, pixels = pyjpegxl.decode(content, dtype=dtype)
    page = _image(pixels, (found.width, found.height), layout)
    if found.has_alpha and has_premultiplied_alpha(content):
        page = unpremultiplied(page).copy_memory()
    return LoadedFrames([page])


def _read_avif(content: bytes) -> _Read:
    image = AvifImagePlugin.AvifImageFile(io.BytesIO(content))
    orientation = image.getexif().get(_ORIENTATION, 1)
    width, height = image.size[::-1] if orientation in _ROTATED else image.size
    return _Read(
        width,
        height,
        _LAYOUTS[_mode(image)],
        partial(_avif_frames, image),
        pages=image.n_frames,
        profile=image.info.get("icc_profile") or b"",
    )


_ORIENTATION, _ROTATED = 0x0112, range(5, 9)


def _avif_frames(image: Any, most: int, fail_on: str) -> LoadedFrames:
    pages: list[Any] = []
    delays: list[int] = []
    try:
        for index in range(min(most, image.n_frames)):
            image.seek(index)
            image.load()
            pages.append(_page(exif_transpose(image)))
            delays.append(image.info.get("duration", 0))
    except _ERRORS:
        # A damaged animation ends with its last complete frame.
        if fail_on != "none" or not pages:
            raise
    return LoadedFrames(pages, delays)


_READERS: Mapping[str, Callable[[bytes], _Read]] = MappingProxyType(
    {
        "bmp": _read_bmp,
        "ico": _read_ico,
        "jp2": _read_jp2,
        "jxl": _read_jxl,
        "avif": _read_avif,
    }
)
