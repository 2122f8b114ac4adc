"""Gain maps of JPEGs: a small second image by which an HDR display brightens the first.

Read and written are the two encodings of their parameters that are in use: ISO 21496-1, and the XMP
of Ultra HDR 1.1. ``uhdrsave`` of libvips 8.18 is not used: it encodes the first image itself, with
a quality as its only setting, and adds EXIF.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyvips

from proxy.domain.variant import Geometry
from proxy.rendering.worker.imaging.load import Header, OpenedSource

# Pixels of the image for each pixel of its map, per side; the default of Android. A map has no
# details, and a larger one would cost more than a tenth of the file.
_SCALE = 4
_SAVE_OPTIONS = {"Q": 85, "optimize_coding": True, "trellis_quant": True, "quant_table": 3}
# A map as large as a photograph of 50 megapixels has about 8 MB.
_MAX_BYTES = 16 * 1024 * 1024
_MAX_SEGMENTS, _MAX_IMAGES = 256, 16
# Difference of the aspect ratios of an image and its map that comes from rounding, as a share; and
# in pixels of the map.
_SAME_ASPECT, _ROUNDING = 0.02, 1.5
# Gains, in powers of two, and offsets beyond this are no photograph's.
_MAX_VALUE = 32.0
_BANDS = (1, 3)

_SOI, _APP0, _APP1, _APP2, _SOS, _EOI = 0xD8, 0xE0, 0xE1, 0xE2, 0xDA, 0xD9
_FILL = 0xFF
_START = bytes((_FILL, _SOI))
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ISO = b"urn:iso:std:iso:ts:21496:-1\0"
_MPF = b"MPF\0"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of ISO 21496-1, with one value for all channels or one for each.

    Gains and headrooms are powers of two.
    """

    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    gamma: tuple[float, ...]
    offset_sdr: tuple[float, ...]
    offset_hdr: tuple[float, ...]
    headroom_min: float
    headroom_max: float

    def usable(self) -> bool:
        """Return whether a display can compute with them."""
        channels = (self.minimum, self.maximum, self.gamma, self.offset_sdr, self.offset_hdr)
        values = [*(value for channel in channels for value in channel)]
        values += [self.headroom_min, self.headroom_max]
        return (
            all(math.isfinite(value) and abs(value) <= _MAX_VALUE for value in values)
            and all(low <= high for low, high in zip(self.minimum, self.maximum, strict=True))
            and min(self.gamma) > 0
            and 0 <= self.headroom_min < self.headroom_max
        )


@dataclass(frozen=True, slots=True)
class GainMap:
    """The map of a source: its own JPEG, and its parameters."""

    encoded: bytes
    parameters: Parameters


def find(opened: OpenedSource) -> GainMap | None:
    """Return the gain map of a source, or None if it has none that can be used.

    Maps that are not kept: one of another shape than the image or with more pixels, one for a base
    image in HDR, and one whose gains apply in other primaries than those of the base. No pixel is
    decoded.
    """
    header, descriptor = opened.header, opened.descriptor
    if header.source_type != "jpeg":
        return None
    # Of a damaged file, the image is shown without its map.
    with suppress(struct.error, ValueError, OverflowError, ZeroDivisionError, pyvips.Error):
        for start, length in _further_images(descriptor):
            parameters = _parameters(descriptor, start)
            if parameters is None or not parameters.usable() or length > _MAX_BYTES:
                continue
            encoded = os.pread(descriptor, length, start)
            if len(encoded) == length and _fits(encoded, header):
                return GainMap(encoded, parameters)
    return None


def attached(encoded: bytes, gain_map: GainMap, header: Header, geometry: Geometry) -> bytes:
    """Return a JPEG with the gain map of its source, scaled, cropped and rotated as its pixels are.

    The compressed pixels of the JPEG remain as they are. If those of the map are damaged, the JPEG
    is returned unchanged.
    """
    try:
        page = _placed(gain_map, header, geometry)
        scaled = page.jpegsave_buffer(keep=0, subsample_mode="off", **_SAVE_OPTIONS)
    except pyvips.Error:
        return encoded
    return _joined(encoded, scaled, gain_map.parameters)


def _fits(encoded: bytes, header: Header) -> bool:
    """Return whether a map can be one of an image, by its header."""
    page = pyvips.Image.jpegload_buffer(encoded)
    width, height = page.width, page.height
    if page.bands not in _BANDS or width > header.width or height > header.height:
        return False
    aspect = header.width / header.height
    allowed = max(_ROUNDING * max(1.0, aspect), _SAME_ASPECT * width)
    return bool(abs(width - height * aspect) <= allowed)


def _placed(gain_map: GainMap, header: Header, geometry: Geometry) -> Any:
    """Return the map of the area that a geometry shows, upright."""
    whole = pyvips.Image.jpegload_buffer(gain_map.encoded)
    scale = max(_SCALE, header.width / whole.width)
    longest = max(geometry.scaled_width, geometry.scaled_height) / scale
    shrink = next((by for by in (8, 4, 2) if max(whole.width, whole.height) >= by * longest), 1)
    # "error": a map that ends early would darken or brighten what follows.
    page = pyvips.Image.jpegload_buffer(gain_map.encoded, shrink=shrink, fail_on="error")
    page = page.copy_memory()
    page.remove("icc-profile-data")
    # The orientation of the image applies to its map too, whatever the map itself declares.
    page.set_type(pyvips.GValue.gint_type, "orientation", header.orientation)
    page = page.autorot()
    if (geometry.width, geometry.height) != (geometry.scaled_width, geometry.scaled_height):
        # At the scale of the image, so that the crop is exact to its pixel.
        page = _resized(page, geometry.scaled_width, geometry.scaled_height)
        page = page.crop(geometry.left, geometry.top, geometry.width, geometry.height)
    return _resized(page, math.ceil(geometry.width / scale), math.ceil(geometry.height / scale))


def _resized(page: Any, width: int, height: int) -> Any:
    return page.thumbnail_image(width, height=height, size="force", no_rotate=True)


def _further_images(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of the images that follow the first (CIPA DC-007, 5.2.3)."""
    for marker, at, length in _segments(descriptor, 0):
        block = os.pread(descriptor, length, at) if marker == _APP2 else b""
        if not block.startswith(_MPF):
            continue
        block = block[len(_MPF) :]
        order = "<" if block[:2] == b"II" else ">"
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        for field in range(count):
            tag, _, size, value = struct.unpack_from(f"{order}HHII", block, first + 2 + 12 * field)
            if tag != _MP_ENTRIES:
                continue
            for entry in range(min(size // _MP_ENTRY.size, _MAX_IMAGES)):
                _, bytes_, offset = struct.unpack_from(
                    f"{order}III", block, value + entry * _MP_ENTRY.size
                )
                if offset and bytes_:
                    yield at + len(_MPF) + offset, bytes_
        return


def _segments(descriptor: int, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield marker, offset and length of each segment of a JPEG up to its pixels."""
    if os.pread(descriptor, len(_START), start) != _START:
        return
    at = start + len(_START)
    for _ in range(_MAX_SEGMENTS):
        fill, marker, length = struct.unpack(">BBH", os.pread(descriptor, 4, at))
        if fill != _FILL or marker in (_SOS, _EOI) or length < 2:  # noqa: PLR2004 - the length itself
            return
        if marker == _FILL:
            at += 1
            continue
        yield marker, at + 4, length - 2
        at += 2 + length


def _parameters(descriptor: int, start: int) -> Parameters | None:
    """Return the parameters in the header of a map; those of ISO 21496-1 precede."""
    xmp = None
    for marker, at, length in _segments(descriptor, start):
        block = os.pread(descriptor, length, at) if marker in (_APP1, _APP2) else b""
        if block.startswith(_ISO):
            return _of_iso(block[len(_ISO) :])
        if block.startswith(_XMP) and b"hdrgm:GainMapMax" in block:
            xmp = block[len(_XMP) :].decode(errors="replace")
    return None if xmp is None else _of_xmp(xmp)


# ISO 21496-1, annex C: two versions and flags, then fractions.
_ISO_HEADER = struct.Struct(">HHB")
_MULTI_CHANNEL, _BASE_PRIMARIES, _BASE_IS_HDR, _COMMON_DENOMINATOR = 0x80, 0x40, 0x04, 0x08


def _of_iso(block: bytes) -> Parameters | None:
    lowest, _, flags = _ISO_HEADER.unpack_from(block)
    if lowest or flags & _BASE_IS_HDR or not flags & _BASE_PRIMARIES:
        return None
    at = _ISO_HEADER.size
    common = 0
    if flags & _COMMON_DENOMINATOR:
        (common,) = struct.unpack_from(">I", block, at)
        at += 4

    def fraction(kind: str) -> float:
        nonlocal at
        (numerator,) = struct.unpack_from(f">{kind}", block, at)
        at += 4
        denominator = common
        if not common:
            (denominator,) = struct.unpack_from(">I", block, at)
            at += 4
        return float(numerator / denominator)

    headrooms = fraction("I"), fraction("I")
    channels = [
        tuple(fraction(kind) for kind in "iiIii") for _ in range(3 if flags & _MULTI_CHANNEL else 1)
    ]
    minimum, maximum, gamma, offset_sdr, offset_hdr = zip(*channels, strict=True)
    return Parameters(minimum, maximum, gamma, offset_sdr, offset_hdr, *headrooms)


def _of_xmp(xmp: str) -> Parameters | None:
    # Ultra HDR 1.1, "HDR gain map metadata", with its defaults.
    if _xmp_text(xmp, "BaseRenditionIsHDR").lower() == "true":
        return None
    offset = (1 / 64,)
    values = (
        _xmp_values(xmp, "GainMapMin", (0.0,)),
        _xmp_values(xmp, "GainMapMax", ()),
        _xmp_values(xmp, "Gamma", (1.0,)),
        _xmp_values(xmp, "OffsetSDR", offset),
        _xmp_values(xmp, "OffsetHDR", offset),
    )
    channels = max(map(len, values))
    if {len(one) for one in values} - {1, channels} or channels not in _BANDS:
        return None
    minimum, maximum, gamma, offset_sdr, offset_hdr = (
        one * (channels // len(one)) for one in values
    )
    headrooms = _xmp_values(xmp, "HDRCapacityMin", (0.0,)), _xmp_values(xmp, "HDRCapacityMax", ())
    return Parameters(
        minimum, maximum, gamma, offset_sdr, offset_hdr, headrooms[0][0], headrooms[1][0]
    )


def _xmp_values(xmp: str, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return the numbers of a property.

    Raises:
        ValueError: it has none.
    """
    text = _xmp_text(xmp, name)
    items = text.split("<rdf:li")[1:]
    parts = [one.partition(">")[2].partition("<")[0] for one in items] or [text]
    values = tuple(float(one) for one in parts) if text else default
    if not values:
        raise ValueError(name)
    return values


def _xmp_text(xmp: str, name: str) -> str:
    """Return a property, given as an attribute or as an element; empty if it is absent."""
    # Not with an XML parser: all writers use the prefix, and so does the library of Android.
    rest = xmp.partition(f"hdrgm:{name}")[2].lstrip()
    if rest.startswith("="):
        quoted = rest[1:].lstrip()
        return quoted[1:].partition(quoted[:1])[0]
    return rest.partition(">")[2].partition(f"</hdrgm:{name}")[0].strip()


# CIPA DC-007: an IFD with the version, the number of images, and an entry for each: attributes,
# length, offset and two dependent images.
_MP_ENTRIES = 0xB002
_MP_ENTRY = struct.Struct(">IIIHH")
_MP_PRIMARY = 0x030000
_MP_HEADER = b"".join(
    (
        b"MM\0*" + struct.pack(">IH", 8, 3),
        struct.pack(">HHI4s", 0xB000, 7, 4, b"0100"),
        struct.pack(">HHII", 0xB001, 4, 1, 2),
        struct.pack(">HHIII", _MP_ENTRIES, 7, 2 * _MP_ENTRY.size, 50, 0),
    )
)
_ADOBE = "http://ns.adobe.com/hdr-gain-map/1.0/"
_PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF></x:xmpmeta>'
)
_RDF_END = "</rdf:RDF>"
_DESCRIPTION = f'<rdf:Description rdf:about="" xmlns:hdrgm="{_ADOBE}" hdrgm:Version="1.0"'
_DIRECTORY = (
    _DESCRIPTION
    + ' xmlns:Container="http://ns.google.com/photos/1.0/container/"'
    + ' xmlns:Item="http://ns.google.com/photos/1.0/container/item/"><Container:Directory><rdf:Seq>'
    + '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary"'
    + ' Item:Mime="image/jpeg"/></rdf:li><rdf:li rdf:parseType="Resource"><Container:Item'
    + ' Item:Semantic="GainMap" Item:Mime="image/jpeg" Item:Length="{}"/></rdf:li>'
    + "</rdf:Seq></Container:Directory></rdf:Description>"
)
_DENOMINATOR = 1_000_000


def _joined(encoded: bytes, scaled: bytes, parameters: Parameters) -> bytes:
    """Return a file with two images, of which decoders without HDR show the first."""
    values, iso = _to_xmp(parameters), _to_iso(parameters)
    second = _START + _segment(_APP1, _XMP + values) + _segment(_APP2, _ISO + iso)
    second += scaled[len(_START) :]
    kept, rest, rights = _split(encoded)
    xmp = _PACKET.format(_DIRECTORY.format(len(second)) + rights).encode()
    # The first image has the version of the standard alone.
    first = kept + _segment(_APP1, _XMP + xmp) + _segment(_APP2, _ISO + iso[:4])
    # Offsets count from the header that follows the name of the segment.
    origin = len(first) + 4 + len(_MPF)
    length = origin + len(_MP_HEADER) + 2 * _MP_ENTRY.size + len(rest)
    entries = _MP_ENTRY.pack(_MP_PRIMARY, length, 0, 0, 0)
    entries += _MP_ENTRY.pack(0, len(second), length - origin, 0, 0)
    return first + _segment(_APP2, _MPF + _MP_HEADER + entries) + rest + second


def _split(encoded: bytes) -> tuple[bytes, bytes, str]:
    """Return the start of a JPEG of ours, its rest, and what its XMP describes."""
    kept, rights, at = [_START], "", len(_START)
    while encoded[at + 1] in (_APP0, _APP1):
        (length,) = struct.unpack_from(">H", encoded, at + 2)
        segment = encoded[at : at + 2 + length]
        if segment[4:].startswith(_XMP):
            packet = segment[4 + len(_XMP) :].decode(errors="replace")
            _, _, rights = packet.partition("<rdf:RDF")
            rights = rights.partition(">")[2].partition(_RDF_END)[0]
        else:
            kept.append(segment)
        at += 2 + length
    return b"".join(kept), encoded[at:], rights


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", _FILL, marker, len(content) + 2) + content


def _to_iso(parameters: Parameters) -> bytes:
    channels = len(parameters.minimum)
    flags = _BASE_PRIMARIES | (_MULTI_CHANNEL if channels > 1 else 0)
    rows = zip(
        *(parameters.minimum, parameters.maximum, parameters.gamma),
        *(parameters.offset_sdr, parameters.offset_hdr),
        strict=True,
    )
    values = (
        parameters.headroom_min,
        parameters.headroom_max,
        *(one for row in rows for one in row),
    )
    fractions = (struct.pack(">iI", round(one * _DENOMINATOR), _DENOMINATOR) for one in values)
    return _ISO_HEADER.pack(0, 0, flags) + b"".join(fractions)


def _to_xmp(parameters: Parameters) -> bytes:
    """Return the packet of a map."""
    named = {
        "GainMapMin": parameters.minimum,
        "GainMapMax": parameters.maximum,
        "Gamma": parameters.gamma,
        "OffsetSDR": parameters.offset_sdr,
        "OffsetHDR": parameters.offset_hdr,
        "HDRCapacityMin": (parameters.headroom_min,),
        "HDRCapacityMax": (parameters.headroom_max,),
    }
    attributes, elements = "", ""
    for name, values in named.items():
        if len(set(values)) == 1:
            attributes += f' hdrgm:{name}="{values[0]:.7g}"'
            continue
        items = "".join(f"<rdf:li>{value:.7g}</rdf:li>" for value in values)
        elements += f"<hdrgm:{name}><rdf:Seq>{items}</rdf:Seq></hdrgm:{name}>"
    attributes += ' hdrgm:BaseRenditionIsHDR="False"'
    return _PACKET.format(f"{_DESCRIPTION}{attributes}>{elements}</rdf:Description>").encode()
