"""Colour spaces of sources, and the conversion to sRGB of those that have no ICC profile.

libvips converts by ICC profiles only. The code points of PNG, AVIF and HEIC (ITU-T H.273) are
therefore read from the file, and their pixels are converted in linear light.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

import pyvips

from proxy.domain.variant import Gamut
from proxy.rendering.worker.imaging import heif_items
from proxy.rendering.worker.imaging.libvips import SourceRefused

Curve = Literal["srgb", "power", "pq", "hlg"]

# x and y of red, green, blue and white (CIE 1931).
_D65 = (0.3127, 0.3290)
_SRGB = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *_D65)
_SMPTE_170M = (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65)
_BT_2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65)
# ColourPrimaries of H.273, table 2.
_PRIMARIES: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {
        1: _SRGB,
        4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
        5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
        6: _SMPTE_170M,
        7: _SMPTE_170M,
        8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.310, 0.316),
        9: _BT_2020,
        11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
        12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),
        22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *_D65),
    }
)
# TransferCharacteristics of H.273, table 3. The curves of BT.709 and its relatives describe
# cameras. Browsers show them by the curve of sRGB, because displays were built so.
_CURVES: Mapping[int, tuple[Curve, float]] = MappingProxyType(
    dict.fromkeys((1, 6, 7, 11, 12, 13, 14, 15), ("srgb", 1.0))
    | {4: ("power", 2.2), 5: ("power", 2.8), 8: ("power", 1.0), 17: ("power", 2.6)}
    | {16: ("pq", 1.0), 18: ("hlg", 1.0)}
)
_GAMUTS: Mapping[Gamut, tuple[float, ...]] = MappingProxyType(
    {Gamut.SRGB: _SRGB, Gamut.P3: _PRIMARIES[12]}
)


@dataclass(frozen=True, slots=True)
class ColourSpace:
    """A colour space that is given without an ICC profile."""

    chromaticities: tuple[float, ...] = _SRGB
    """x and y of red, green, blue and white."""
    curve: Curve = "srgb"
    exponent: float = 1.0
    """Of the curve ``power``: light = level ** exponent."""


@dataclass(frozen=True, slots=True)
class SourceColour:
    """How the levels of a source become sRGB."""

    space: ColourSpace | None = None
    """A space other than sRGB, given by code points."""
    narrow: bool = False
    """Black is 16 and white 235 of 255 (H.273, limited range), and the decoder left them there."""
    profiled: bool = False
    """The embedded ICC profile applies, and is not sRGB."""
    profile: bytes = field(default=b"", compare=False, repr=False)
    """The embedded ICC profile, if it has colours."""
    bands: int = field(default=3, compare=False)
    """Without alpha."""
    lab: bool = field(default=False, compare=False)
    """The levels are CIELAB."""
    premultiplied: bool = field(default=False, compare=False)
    """libvips delivers colours that are multiplied by the alpha."""

    @property
    def wide(self) -> bool:
        """Whether the space has colours that sRGB cannot represent.

        The comparison is cached by profile; profiles above 128 KB are compared on every call.
        """
        if self.bands < _COLOURS:
            return False
        if self.space is not None:
            return bool(_matrix(self.space.chromaticities, _SRGB).min() < _OUTSIDE)
        return self.lab or (self.profiled and _exceeds_chart(self.profile, self.bands))


STORED_AS_SRGB = SourceColour()


def read(image: Any, descriptor: int, source_type: str) -> SourceColour:
    """Return the colour of a source; only a PNG, AVIF or HEIC is read for it.

    ``image`` is opened by libvips; none of its pixels is decoded.
    """
    profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else b""
    if image.interpretation in _LABS:
        # An ICC profile beside CIELAB is one of another version of the image.
        return SourceColour(bands=image.bands - image.hasalpha(), lab=True)
    profiled = SourceColour(profiled=bool(profile) and not _is_srgb(profile, image))
    profiled = replace(profiled, profile=profile, bands=image.bands - image.hasalpha())
    # Of a damaged file, what libvips makes of it is shown. A chunk that is too short has too few
    # values to unpack (ValueError).
    damage = (struct.error, IndexError, ValueError, ZeroDivisionError, pyvips.Error, SourceRefused)
    with suppress(*damage):
        if source_type == "png":
            return _of_png(descriptor, profiled, has_profile=bool(profile))
        if source_type in ("avif", "heic"):
            return _of_heif(descriptor, profiled, has_profile=bool(profile))
    return profiled


_COLOURS, _INKS = 3, 4
_LABS = ("lab", "labs", "labq")
# Negative share of a primary of sRGB in one of a space from which on the space is wider. Those of
# SMPTE 170M and EBU 3213, which are as large as sRGB, have up to 0.05.
_OUTSIDE = -0.06


# Levels by which a conversion to sRGB must change a colour to be worth it.
_SAME_LEVELS = 2
# Profiles of sRGB are shorter. Longer ones are not compared, which would keep them in memory.
_MAX_COMPARED_BYTES = 128 * 1024
_CHART_SIDE = 9
_STEPS = 4
_FULL = 255


def _is_srgb(profile: bytes, image: Any) -> bool:
    # CMYK is always converted.
    if len(profile) > _MAX_COMPARED_BYTES or image.bands > 4:  # noqa: PLR2004 - RGBA
        return False
    grey = image.interpretation in ("b-w", "grey16")
    return image.interpretation in ("b-w", "grey16", "srgb", "rgb16") and _keeps_chart(
        profile, grey=grey
    )


# CIE76 between a colour and the nearest that a gamut has; 2.3 is just noticeable.
_NOTICEABLE = 2.3


def outside(page: Any, source: SourceColour, gamut: Gamut) -> float:
    """Return the share of the pixels, 0 to 1, whose colours change noticeably in a gamut.

    ``page`` has the levels of the source, without alpha, and its profile if that applies.
    """
    if source.space is not None:
        light = _shown_light(page, source.space)
        before, after = _clipped(light, source.space.chromaticities, _GAMUTS[gamut])
    elif source.lab:
        before, after = _clipped(page.colourspace("scrgb"), _SRGB, _GAMUTS[gamut])
    else:
        before, after = _exported(_imported(page), gamut)
    return float((before.dE76(after) > _NOTICEABLE).avg() / _FULL)


def with_profile(page: Any, profile: bytes) -> Any:
    """Return a page with an ICC profile, or as it is if there is none."""
    if not profile:
        return page
    page = page.copy()
    page.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return page


def _imported(page: Any) -> Any:
    return page.icc_import(embedded=True, intent="relative", pcs="lab")


def _exported(lab: Any, gamut: Gamut) -> tuple[Any, Any]:
    """Return CIELAB, and what a gamut makes of it."""
    options = {"intent": "relative", "pcs": "lab"}
    levels = lab.icc_export(output_profile=gamut.value, depth=16, **options)
    return lab, levels.icc_import(input_profile=gamut.value, **options)


def _clipped(
    light: Any, chromaticities: tuple[float, ...], target: tuple[float, ...]
) -> tuple[Any, Any]:
    """Return CIELAB of linear light in a space, and what a gamut makes of it."""
    light = light.recomb(_matrix(chromaticities, target))
    high = (light > 1).ifthenelse(1, light)
    both = (light, (high < 0).ifthenelse(0, high))
    before, after = (one.recomb(_matrix(target, _SRGB)) for one in both)
    return tuple(one.copy(interpretation="scrgb").colourspace("lab") for one in (before, after))


def _exceeds_chart(profile: bytes, bands: int) -> bool:
    compare = _compared if len(profile) <= _MAX_COMPARED_BYTES else _compared.__wrapped__
    return compare(profile, bands)


@lru_cache(maxsize=32)
def _compared(profile: bytes, bands: int) -> bool:
    if bands > _INKS:
        return False
    steps = [round(at * _FULL / (_STEPS - 1)) for at in range(_STEPS)]
    levels = bytes(level for colour in product(steps, repeat=bands) for level in colour)
    chart = pyvips.Image.new_from_memory(levels, _STEPS**bands, 1, bands, "uchar")
    chart = with_profile(chart.copy(interpretation="cmyk" if bands == _INKS else "srgb"), profile)
    try:
        before, after = _exported(_imported(chart), Gamut.SRGB)
        return bool(before.dE76(after).max() > _NOTICEABLE)
    except pyvips.Error:
        return False


@lru_cache(maxsize=32)
def _keeps_chart(profile: bytes, *, grey: bool) -> bool:
    """Return whether a profile converts a chart of colours to nearly the same levels of sRGB.

    The names and signatures in a profile prove nothing: editors copy them into other profiles.
    """
    levels = pyvips.Image.identity()
    chart = levels
    if not grey:
        steps = [round(at * _FULL / (_CHART_SIDE - 1)) for at in range(_CHART_SIDE)]
        cube = bytes(part for r in steps for g in steps for b in steps for part in (r, g, b))
        chart = pyvips.Image.new_from_memory(cube, _CHART_SIDE**3, 1, 3, "uchar")
        chart = chart.join(levels.bandjoin([levels, levels]), "horizontal")
    chart = with_profile(chart.copy(interpretation="b-w" if grey else "srgb"), profile)
    try:
        converted = chart.icc_transform("srgb", embedded=True, intent="relative")
        return bool((converted.cast("int") - chart.cast("int")).abs().max() <= _SAME_LEVELS)
    except pyvips.Error:
        # Garbage, or a profile of another kind of image: libvips ignores it.
        return True


def _coded(primaries: int, curve: int) -> ColourSpace | None:
    """Return the space of two code points, or None for sRGB; what is unspecified is sRGB.

    PQ and HLG are only defined with the primaries of BT.2020 (BT.2100), so these are assumed.
    """
    name, exponent = _CURVES.get(curve, ("srgb", 1.0))
    default = _BT_2020 if name in ("pq", "hlg") else _SRGB
    space = ColourSpace(_PRIMARIES.get(primaries, default), name, exponent)
    return None if space == ColourSpace() else space


_LENGTH_AND_NAME = struct.Struct(">I4s")
# PNG (third edition).
_PNG_SIGNATURE = 8
_CRC = 4
_COLOUR_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
_MAX_COLOUR_CHUNK = 32
_MAX_CHUNKS = 1000
# gAMA is the exponent of the encoder in 100,000ths; libpng 1.6 treats exponents that differ by less
# than 5 % as equal.
_GAMA_UNIT = 100_000
_DISPLAY_EXPONENT, _SAME_EXPONENT = 2.2, 0.05
_MIN_EXPONENT, _MAX_EXPONENT = 0.1, 10.0


def _of_png(descriptor: int, profiled: SourceColour, *, has_profile: bool) -> SourceColour:
    """Apply the precedence of the third edition, 4.3: cICP, iCCP, sRGB, then gAMA and cHRM."""
    chunks = _colour_chunks(descriptor)
    if coded := chunks.get(b"cICP"):
        primaries, curve, matrix, full_range = coded[:4]
        # What a decoder does not support is ignored; PNG allows no other matrix than 0 (RGB).
        if primaries in _PRIMARIES and curve in _CURVES and matrix == 0:
            coded_space = _coded(primaries, curve)
            return replace(profiled, space=coded_space, narrow=not full_range, profiled=False)
    if has_profile or b"sRGB" in chunks:
        return profiled if has_profile else SourceColour()
    space = ColourSpace()
    if b"gAMA" in chunks:
        gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / _GAMA_UNIT
        exponent = 1 / gamma
        usual = abs(exponent / _DISPLAY_EXPONENT - 1) < _SAME_EXPONENT
        if not usual and _MIN_EXPONENT <= exponent <= _MAX_EXPONENT:
            space = replace(space, curve="power", exponent=exponent)
    if b"cHRM" in chunks:
        white, red, green, blue = struct.iter_unpack(">II", chunks[b"cHRM"])
        xy = tuple(value / _GAMA_UNIT for value in (*red, *green, *blue, *white))
        if _is_gamut(xy) and not all(
            abs(one - other) < _SAME_XY for one, other in zip(xy, _SRGB, strict=True)
        ):
            space = replace(space, chromaticities=xy)
    return replace(profiled, space=None if space == ColourSpace() else space)


_SAME_XY = 0.001
_MIN_AREA = 0.01


def _is_gamut(xy: tuple[float, ...]) -> bool:
    """Return whether primaries span a triangle, so that the matrix has an inverse."""
    rx, ry, gx, gy, bx, by = xy[:6]
    area = abs((gx - rx) * (by - ry) - (bx - rx) * (gy - ry))
    return area > _MIN_AREA and min(xy[1::2]) > 0 and max(xy) <= 1


def _colour_chunks(descriptor: int) -> dict[bytes, bytes]:
    """Return the chunks that define the colour; all of them precede the pixels."""
    found: dict[bytes, bytes] = {}
    at = _PNG_SIGNATURE
    for _ in range(_MAX_CHUNKS):
        header = os.pread(descriptor, _LENGTH_AND_NAME.size + _MAX_COLOUR_CHUNK, at)
        length, name = _LENGTH_AND_NAME.unpack_from(header)
        if name == b"IDAT":
            break
        if name in _COLOUR_CHUNKS:
            found.setdefault(name, header[_LENGTH_AND_NAME.size :][:length])
        at += _LENGTH_AND_NAME.size + length + _CRC
    return found


_NCLX = struct.Struct(">4sHHHB")
_FULL_RANGE = 0x80
# Offset of the byte with ``monochrome`` in ``av1C`` (AV1-ISOBMFF, 2.3.3), and its bit.
_AV1_FLAGS, _MONOCHROME = 2, 0x10
# Offset of ``chroma_format_idc`` in ``hvcC`` (ISO/IEC 14496-15, 8.3.2); 0 is monochrome.
_HEVC_CHROMA = 16


def _of_heif(descriptor: int, profiled: SourceColour, *, has_profile: bool) -> SourceColour:
    items = heif_items.read(descriptor)
    profiled = replace(profiled, premultiplied=bool(items and items.premultiplied))
    properties = items.of_primary() if items else []
    coded = next((box for name, box in properties if box[:4] == b"nclx" and name == b"colr"), None)
    if coded is None:
        return profiled
    _, primaries, curve, _, flags = _NCLX.unpack_from(coded)
    monochrome = any(
        (name == b"av1C" and box[_AV1_FLAGS] & _MONOCHROME)
        or (name == b"hvcC" and not box[_HEVC_CHROMA] & 3)
        for name, box in properties
    )
    # libheif expands the range of colour, not of monochrome.
    colour = replace(profiled, narrow=monochrome and not flags & _FULL_RANGE)
    # With both, the ICC profile applies (MIAF, 7.3.6.4).
    return colour if has_profile else replace(colour, space=_coded(primaries, curve))


# Levels of limited range, of 255 (H.273, 8.3).
_BLACK, _WHITE = 16, 235


def widened(page: Any) -> Any:
    """Return a page of limited range in full range; its alpha always has full range."""
    # Levels of more than 8 bits have the same share of the range.
    unit = 256 if page.format == "ushort" else 1
    alpha = page[-1] if page.hasalpha() else None
    colours = page[: page.bands - 1] if page.hasalpha() else page
    full = 255 * unit + unit - 1
    gain = full / ((_WHITE - _BLACK) * unit)
    wide = colours.linear(gain, -_BLACK * unit * gain).rint().cast(page.format)
    wide = wide if alpha is None else wide.bandjoin(alpha)
    return wide.copy(interpretation=page.interpretation)


# BT.2408: diffuse white, and the peak of the display that HLG is graded on, in cd/m2.
_DIFFUSE_WHITE, _HLG_PEAK = 203.0, 1000.0
# Luminance of BT.2020, and the exponent of the HLG system minus one (BT.2100, table 5).
_LUMINANCE = [[0.2627, 0.6780, 0.0593]]
_HLG_GAMMA = 0.2
# Share of diffuse white up to which a level of HDR is kept. Diffuse white itself becomes level 237
# and 1,000 cd/m2 253 of 255.
_KNEE = 0.7


def converted(page: Any, space: ColourSpace, gamut: Gamut) -> Any:
    """Convert 8 or 16 bit levels to 8-bit levels of a gamut, or grey; HDR is tone-mapped to SDR.

    Colours outside of it are clipped, as by an ICC profile with relative colorimetric intent.
    """
    alpha = page[-1] if page.hasalpha() else None
    grey = page.bands < _COLOURS
    light = _shown_light(page, space)
    # Grey stays grey, whatever the primaries.
    light = light if grey else light.recomb(_matrix(space.chromaticities, _GAMUTS[gamut]))
    # Display P3 has the curve of sRGB.
    levels = light.copy(interpretation="scrgb").colourspace("srgb")
    levels = levels[0].copy(interpretation="b-w") if grey else levels
    if alpha is None:
        return levels
    levels = levels.bandjoin((alpha >> 8 if page.format == "ushort" else alpha).cast("uchar"))
    return levels.copy(interpretation="b-w" if grey else "srgb")


def from_lab(page: Any, gamut: Gamut) -> Any:
    """Convert CIELAB as floats to 8-bit levels of a gamut; colours outside of it are clipped.

    Not by an ICC profile: white of CIELAB is D65 in libvips, also in its conversion to sRGB, and
    D50 in profiles. libvips stores an alpha beside CIELAB as 0 to 255, and so it remains.
    """
    light = page[:_COLOURS].colourspace("scrgb").recomb(_matrix(_SRGB, _GAMUTS[gamut]))
    levels = light.copy(interpretation="scrgb").colourspace("srgb")
    if page.hasalpha():
        levels = levels.bandjoin(page[_COLOURS].rint().cast("uchar"))
    levels = levels.copy(interpretation="srgb")
    # It would be applied to what is scaled from this page.
    levels.remove("icc-profile-data")
    return levels


def _shown_light(page: Any, space: ColourSpace) -> Any:
    """Return the linear light of a page in its own primaries, in three bands; 1 is white."""
    grey = page.bands < _COLOURS
    table = _light_table(space, ushort=page.format == "ushort")
    light = (page[0] if grey else page[:3]).maplut(table)
    light = light.bandjoin([light, light]) if grey else light
    if space.curve == "hlg":
        luminance = light.recomb(pyvips.Image.new_from_array(_LUMINANCE))
        light = light * luminance**_HLG_GAMMA * (_HLG_PEAK / _DIFFUSE_WHITE)
    return _tone_mapped(light) if space.curve in ("pq", "hlg") else light


def _tone_mapped(light: Any) -> Any:
    """Compress the light above the knee by the brightest channel, so that hues are kept."""
    peak = light[0].maxpair(light[1]).maxpair(light[2])
    rest = 1 - _KNEE
    excess = (peak - _KNEE) / rest
    compressed = (excess / (excess + 1)) * rest + _KNEE
    return light * (peak > _KNEE).ifthenelse(compressed / peak, 1)


@lru_cache(maxsize=16)
def _light_table(space: ColourSpace, *, ushort: bool) -> Any:
    """Return linear light for each level; 1 is white, or diffuse white of PQ."""
    level = pyvips.Image.identity(ushort=ushort) / (65535.0 if ushort else 255.0)
    match space.curve:
        case "power":
            light = level**space.exponent
        case "pq":
            # BT.2100, table 4.
            power = level ** (1 / 78.84375)
            ratio = ((power - 0.8359375) > 0).ifthenelse(power - 0.8359375, 0) / (
                power * -18.6875 + 18.8515625
            )
            light = ratio ** (1 / 0.1593017578125) * (10_000 / _DIFFUSE_WHITE)
        case "hlg":
            # BT.2100, table 5.
            high = (((level - 0.55991073) / 0.17883277).exp() + 0.28466892) / 12
            light = (level <= 0.5).ifthenelse(level**2 / 3, high)  # noqa: PLR2004
        case "srgb":
            low = level <= 0.04045  # noqa: PLR2004 - IEC 61966-2-1
            light = low.ifthenelse(level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return light.cast("float").copy_memory()


# Bradford (ICC.1:2022, annex E).
_CONES = [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]


@lru_cache(maxsize=16)
def _matrix(chromaticities: tuple[float, ...], target: tuple[float, ...]) -> Any:
    """Return the matrix from linear light in a space to that in another; white stays white."""
    cones = pyvips.Image.new_from_array(_CONES)
    found, wanted = (cones.matrixmultiply(_xyz(*xy[6:])) for xy in (chromaticities, target))
    scales = [wanted(0, row)[0] / found(0, row)[0] for row in range(3)]
    adapted = cones.matrixinvert().matrixmultiply(_diagonal(scales).matrixmultiply(cones))
    from_source = adapted.matrixmultiply(_to_xyz(chromaticities))
    return _to_xyz(target).matrixinvert().matrixmultiply(from_source).copy_memory()


def _to_xyz(chromaticities: tuple[float, ...]) -> Any:
    """Return the matrix from linear light to XYZ, where white has the luminance 1."""
    pairs = [chromaticities[at : at + 2] for at in range(0, 6, 2)]
    columns = [(x / y, 1.0, (1 - x - y) / y) for x, y in pairs]
    unscaled = pyvips.Image.new_from_array([list(row) for row in zip(*columns, strict=True)])
    shares = unscaled.matrixinvert().matrixmultiply(_xyz(*chromaticities[6:]))
    return unscaled.matrixmultiply(_diagonal([shares(0, row)[0] for row in range(3)]))


def _xyz(x: float, y: float) -> Any:
    return pyvips.Image.new_from_array([[x / y], [1.0], [(1 - x - y) / y]])


def _diagonal(values: list[float]) -> Any:
    rows = [[value if at == row else 0.0 for at in range(3)] for row, value in enumerate(values)]
    return pyvips.Image.new_from_array(rows)
