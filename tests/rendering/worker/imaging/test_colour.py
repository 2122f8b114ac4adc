"""Colours of sources, compared with LittleCMS and with the formulas of the standards in NumPy."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageCms

from proxy.domain.formats import Format
from proxy.domain.variant import EncoderProfile, Gamut, QualitySearch
from proxy.domain.worker_protocol import JobFailure, RenderResult
from proxy.rendering.worker.imaging import colour, load
from proxy.settings import EncoderSettings
from tests.rendering.worker.imaging import crafted, studio
from tests.support.memory_files import memory_file
from tests.support.photos import case, photo

Floats = NDArray[np.float64]

# Tolerances in levels of 255: of single colours, and of the mean of an image.
LEVELS = 3
MEAN = 1.0

BT_709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
BT_2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
GREY, SKIN, LEAF, SKY, DUSK = (
    (128,) * 3,
    (200, 80, 40),
    (10, 200, 100),
    (40, 160, 200),
    (30, 20, 40),
)
PATCHES = (RED, GREEN, BLUE, WHITE, BLACK, GREY, SKIN, LEAF, SKY, DUSK)
SIDE = 16


def chart(mode: str = "RGB") -> Image.Image:
    """A row of squares of one colour each."""
    picture = Image.new("RGB", (SIDE * len(PATCHES), SIDE))
    for at, patch in enumerate(PATCHES):
        picture.paste(patch, (SIDE * at, 0, SIDE * (at + 1), SIDE))
    return picture.convert(mode)


def squares(encoded: bytes, mode: str = "RGB") -> Floats:
    """The colours in the middles of the squares."""
    shown = studio.pixels(encoded, mode).astype(float)
    step = shown.shape[1] / len(PATCHES)
    columns = [int(step * (at + 0.5)) for at in range(len(PATCHES))]
    return shown[shown.shape[0] // 2, columns]


def chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def cicp(primaries: int, curve: int, matrix: int = 0, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes((primaries, curve, matrix, full)))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(primaries: tuple[tuple[float, float], ...]) -> bytes:
    pairs = ((0.3127, 0.3290), *primaries)
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for xy in pairs for v in xy)))


SRGB_CHUNK = chunk(b"sRGB", b"\0")


def avif(picture: Image.Image, primaries: int, curve: int, **options: Any) -> bytes:
    """An AVIF whose colour is given by code points alone."""
    encoded = studio.saved(picture, "AVIF", quality=98, subsampling="4:4:4", **options)
    at = encoded.index(b"colrnclx") + 8
    return encoded[:at] + struct.pack(">HH", primaries, curve) + encoded[at + 4 :]


def deep_avif(levels: Floats, primaries: int, curve: int) -> bytes:
    """The same with 10 bits; the levels are 0 to 1."""
    height, width, _ = levels.shape
    image = pyvips.Image.new_from_array((levels * 65535).round().astype(np.uint16))
    encoded: bytes = image.copy(interpretation="rgb16").heifsave_buffer(
        compression="av1", bitdepth=10, Q=98, subsample_mode="off", keep=0
    )
    # libheif writes no code points.
    configuration = encoded[encoded.index(b"av1C") + 4 :][:4]
    payload = encoded[encoded.index(b"mdat") + 4 :]
    coded = b"nclx" + struct.pack(">HHHB", primaries, curve, 6, 0x80)
    bits = (b"pixi", bytes((0, 0, 0, 0, 3, 10, 10, 10)))
    properties = ((b"av1C", configuration), bits, (b"colr", coded))
    return crafted.heif(b"avif", payload, (width, height), *properties)


# The references.


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> Floats:
    """SMPTE RP 177; white is D65."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    found: Floats = columns * np.linalg.solve(columns, white)
    return found


def srgb_light(level: Floats) -> Floats:
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def srgb_levels(
    light: Floats,
    primaries: tuple[tuple[float, float], ...] = BT_709,
    target: tuple[tuple[float, float], ...] = BT_709,
) -> Floats:
    """Levels of 255, in the primaries of a target, of linear light in a space of white D65."""
    matrix = np.linalg.solve(to_xyz(target), to_xyz(primaries))
    within = np.clip(light @ matrix.T, 0, 1)
    level = np.where(within <= 0.0031308, within * 12.92, 1.055 * within ** (1 / 2.4) - 0.055)
    return 255 * level


def pq_light(level: Floats) -> Floats:
    """SMPTE ST 2084, in cd/m2."""
    power = level ** (32 / 2523)
    base = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return 10_000 * base ** (16384 / 2610)


def pq_level(light: Floats) -> Floats:
    power = (light / 10_000) ** (2610 / 16384)
    ratio = (3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)
    return ratio ** (2523 / 32)


def hlg_light(level: Floats) -> Floats:
    """ARIB STD-B67 on a display of 1,000 cd/m2."""
    scene = np.where(
        level <= 0.5, level**2 / 3, (np.exp((level - 0.55991) / 0.17883) + 0.28467) / 12
    )
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    shown: Floats = 1000 * scene * luminance[..., None] ** 0.2
    return shown


def tone_mapped(light: Floats) -> Floats:
    """Shares of 203 cd/m2; levels above 0.7 approach 1."""
    share = light / 203
    peak = np.maximum(share.max(axis=-1, keepdims=True), 1e-9)
    above = (peak - 0.7) / 0.3
    return share * np.where(peak > 0.7, (0.7 + 0.3 * above / (1 + above)) / peak, 1)


def by_littlecms(picture: Image.Image) -> Image.Image:
    """A picture in Display P3 in sRGB, by the profile of Apple."""
    with Image.open(photo("display-p3.png")) as wide:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(wide.info["icc_profile"]))
    converted = ImageCms.profileToProfile(
        picture.convert("RGB"),
        profile,
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    assert converted is not None
    return converted


STORED = np.array(PATCHES, float) / 255


def check(encoded: bytes, expected: Floats, *, levels: float = LEVELS) -> None:
    assert np.abs(squares(encoded) - expected).max() <= levels


# The files that came out wrong.


def shown(name: str, **options: Any) -> studio.Pixels:
    return studio.pixels(studio.rendered(case(name), **options))


def test_a_profile_is_compared_by_its_content_and_not_by_its_signature() -> None:
    with Image.open(case("C04-p3-with-srgb-signature.jpg")) as picture:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        expected = ImageCms.profileToProfile(
            picture,
            profile,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    assert expected is not None
    ours = shown("C04-p3-with-srgb-signature.jpg")
    assert studio.difference(ours, studio.pixels(expected)) < MEAN


def test_the_gamma_of_a_png_counts() -> None:
    assert np.abs(shown("C26-gama1.png")[120, 120].astype(int) - 188).max() <= 1


def test_the_primaries_of_a_png_count() -> None:
    """Red and green are exchanged."""
    stored = studio.pixels(Image.open(case("C27-gama-chrm-swap.png")))
    assert studio.difference(shown("C27-gama-chrm-swap.png"), stored[..., [1, 0, 2]]) < MEAN


def test_a_png_in_pq_is_mapped_to_sdr() -> None:
    levels = studio.pixels(Image.open(case("C28-cicp-pq.png"))) / 255
    expected = srgb_levels(tone_mapped(pq_light(levels)), BT_2020)
    ours = shown("C28-cicp-pq.png")
    assert ours.max() >= 235
    assert np.abs(ours - expected).mean() < MEAN


def test_a_png_in_p3_is_converted() -> None:
    ours = shown("C29-cicp-p3.png")
    expected = by_littlecms(Image.open(case("C29-cicp-p3.png")))
    assert np.abs(ours.astype(int) - studio.pixels(expected)).max() <= 2
    assert np.abs(ours[200, 200].astype(int) - (0, 205, 86)).max() <= LEVELS


def test_an_srgb_chunk_precedes_gamma_and_primaries() -> None:
    name = "C30-srgb-chunk-gama.png"
    assert (shown(name) == studio.pixels(Image.open(case(name)))).all()


def test_an_avif_in_pq_is_mapped_to_sdr() -> None:
    """Pillow decodes with libavif, to 8 bits; the file has 10."""
    ours = shown("H07-pq.avif")
    levels = studio.pixels(Image.open(case("H07-pq.avif"))) / 255
    expected = srgb_levels(tone_mapped(pq_light(levels)), BT_2020)
    assert ours.max() >= 235
    assert np.abs(ours - expected).mean() < 2


@pytest.mark.parametrize("name", ["H08-cicp-p3.avif", "H11-patch-p3.avif"])
def test_an_avif_in_p3_is_converted(name: str) -> None:
    expected = studio.pixels(by_littlecms(Image.open(case(name))))
    assert studio.difference(shown(name), expected) < MEAN


def test_monochrome_of_limited_range_is_widened() -> None:
    ours = shown("H17-mono-limited.avif").astype(int)
    expected = studio.pixels(Image.open(case("H17-mono-limited.avif")))
    assert np.abs(ours - expected).max() <= 2
    assert ours.max() == 255
    assert abs(ours.min() - 18) <= 2


# Their siblings.


@pytest.mark.parametrize("size", [studio.WHOLE, studio.contain(80, 80)])
@pytest.mark.parametrize("fmt", [Format.PNG, Format.JPEG, Format.WEBP, Format.AVIF])
def test_each_format_and_size_is_converted(fmt: Format, size: Any) -> None:
    source = with_chunks(studio.saved(chart()), cicp(12, 13))
    expected = np.asarray(by_littlecms(chart()))[SIDE // 2, SIDE // 2 :: SIDE]
    ours = squares(studio.rendered(source, fmt, box=size))
    assert np.abs(ours - expected).mean() < 4


PRECEDENCE: dict[str, tuple[list[bytes], Callable[[Floats], Floats]]] = {
    "cICP before all others": (
        [cicp(12, 13), SRGB_CHUNK, gama(1.0), chrm(BT_2020)],
        lambda levels: srgb_levels(srgb_light(levels), P3),
    ),
    "cICP of sRGB before gAMA": ([cicp(1, 13), gama(1.0)], lambda levels: 255 * levels),
    "an unknown cICP is ignored": (
        [cicp(99, 13), gama(1.0)],
        srgb_levels,
    ),
    "a cICP with a matrix is ignored": (
        [cicp(12, 13, matrix=6), gama(1.0)],
        srgb_levels,
    ),
    "sRGB before gAMA and cHRM": (
        [SRGB_CHUNK, gama(1.0), chrm(P3)],
        lambda levels: 255 * levels,
    ),
    "gAMA and cHRM": ([gama(1.0), chrm(P3)], lambda levels: srgb_levels(levels, P3)),
    "gAMA alone": ([gama(1 / 1.8)], lambda levels: srgb_levels(levels**1.8)),
    "the usual gAMA is sRGB": ([gama(1 / 2.2)], lambda levels: 255 * levels),
    "cHRM alone": ([chrm(P3)], lambda levels: srgb_levels(srgb_light(levels), P3)),
    "a gAMA of 0 is ignored": ([gama(0)], lambda levels: 255 * levels),
    "a cHRM without an area is ignored": (
        [chrm(((0.3, 0.3),) * 3)],
        lambda levels: 255 * levels,
    ),
    "cICP of limited range": (
        [cicp(1, 13, full=0)],
        lambda levels: np.clip((255 * levels - 16) * 255 / 219, 0, 255),
    ),
    "cICP of BT.2020": ([cicp(9, 14)], lambda levels: srgb_levels(srgb_light(levels), BT_2020)),
    "cICP of HLG": (
        [cicp(9, 18)],
        lambda levels: srgb_levels(tone_mapped(hlg_light(levels)), BT_2020),
    ),
    "cICP of PQ in P3": (
        [cicp(12, 16)],
        lambda levels: srgb_levels(tone_mapped(pq_light(levels)), P3),
    ),
}


@pytest.mark.parametrize("length", range(41))
@pytest.mark.parametrize("name", [b"cICP", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"mDCV", b"cLLI"])
def test_a_chunk_of_any_length_is_used_or_ignored(name: bytes, length: int) -> None:
    plain = studio.saved(Image.new("RGB", (8, 8), (200, 100, 50)))
    with memory_file(with_chunks(plain, chunk(name, bytes(length)))) as source:
        assert load.open_source(source, studio.LIMITS).header.width == 8


@pytest.mark.parametrize("name", PRECEDENCE)
def test_the_chunks_of_a_png_have_the_precedence_of_the_third_edition(name: str) -> None:
    chunks, expected = PRECEDENCE[name]
    source = with_chunks(studio.saved(chart()), *chunks)
    check(studio.rendered(source), expected(STORED), levels=1)


def test_cicp_precedes_a_profile_and_a_profile_precedes_gamma() -> None:
    with Image.open(photo("display-p3.png")) as wide:
        source = studio.saved(chart(), icc_profile=wide.info["icc_profile"])
    check(studio.rendered(with_chunks(source, cicp(1, 13))), 255 * STORED, levels=0)
    by_profile = np.asarray(by_littlecms(chart()))[SIDE // 2, SIDE // 2 :: SIDE]
    check(studio.rendered(with_chunks(source, gama(1.0))), by_profile, levels=2)


def test_grey_with_a_gamma_stays_grey() -> None:
    source = with_chunks(studio.saved(Image.new("L", (8, 8), 128)), gama(1.0))
    assert studio.pixels(studio.rendered(source))[4, 4].tolist() == [188] * 3
    assert studio.opened(studio.rendered(source, Format.JPEG)).mode == "L"


def test_a_palette_with_a_gamma_is_converted() -> None:
    source = with_chunks(studio.saved(chart().quantize(16)), gama(1.0))
    check(studio.rendered(source), srgb_levels(STORED), levels=1)


def test_alpha_is_no_colour() -> None:
    picture = chart("RGBA")
    picture.putalpha(128)
    for mode, levels in (("RGBA", 1), ("LA", 1)):
        source = with_chunks(studio.saved(picture.convert(mode)), gama(1.0))
        ours = squares(studio.rendered(source), "RGBA")
        stored = np.asarray(picture.convert(mode).convert("RGB"))[SIDE // 2, SIDE // 2 :: SIDE]
        assert (ours[:, 3] == 128).all()
        assert np.abs(ours[:, :3] - srgb_levels(stored / 255)).max() <= levels


def test_dark_areas_of_sixteen_linear_bits_have_no_steps() -> None:
    """8 linear bits have 13 levels in the darkest fifth, sRGB has 51."""
    ramp = np.linspace(0, 0.033, 512)
    picture = Image.fromarray((np.tile(ramp, (16, 1)) * 65535).round().astype(np.uint16))
    source = with_chunks(studio.saved(picture), gama(1.0))
    ours = studio.pixels(studio.rendered(source), "L")[8].astype(int)
    assert np.abs(ours - srgb_levels(np.stack([ramp] * 3, -1))[:, 0]).max() <= 1
    small = studio.pixels(studio.rendered(source, box=studio.contain(256, 256)), "L")[4]
    assert np.diff(small.astype(int)).max() <= 2


def test_a_rotated_png_is_upright_and_converted() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = with_chunks(studio.saved(chart(), exif=exif), cicp(12, 13))
    encoded = studio.rendered(source)
    assert studio.opened(encoded).size == (SIDE, SIDE * len(PATCHES))
    upright = studio.pixels(encoded)[SIDE // 2 :: SIDE, SIDE // 2]
    expected = np.asarray(by_littlecms(chart()))[SIDE // 2, SIDE // 2 :: SIDE]
    assert np.abs(upright.astype(int) - expected).max() <= 2


def decoded_by_libavif(source: bytes) -> Floats:
    return squares(source) / 255


@pytest.mark.parametrize(
    ("primaries", "curve", "expected"),
    [
        (9, 1, lambda levels: srgb_levels(srgb_light(levels), BT_2020)),
        (9, 14, lambda levels: srgb_levels(srgb_light(levels), BT_2020)),
        (9, 16, lambda levels: srgb_levels(tone_mapped(pq_light(levels)), BT_2020)),
        (9, 18, lambda levels: srgb_levels(tone_mapped(hlg_light(levels)), BT_2020)),
        (2, 18, lambda levels: srgb_levels(tone_mapped(hlg_light(levels)), BT_2020)),
        (12, 4, lambda levels: srgb_levels(levels**2.2, P3)),
        (1, 1, lambda levels: 255 * levels),
        (1, 13, lambda levels: 255 * levels),
        (2, 2, lambda levels: 255 * levels),
        (300, 77, lambda levels: 255 * levels),
    ],
)
@pytest.mark.parametrize("levels_range", ["full", "limited"])
def test_the_code_points_of_an_avif_count(
    primaries: int, curve: int, expected: Callable[[Floats], Floats], levels_range: str
) -> None:
    source = avif(chart(), primaries, curve, range=levels_range)
    stored = decoded_by_libavif(source)
    check(studio.rendered(source), expected(stored), levels=4)


def test_ten_bits_of_pq_are_not_rounded_to_eight() -> None:
    """From 0 to 20 cd/m2, where 8 bits of PQ make steps of two levels and more."""
    light = np.linspace(0, 20, 512)
    levels = np.repeat(np.tile(pq_level(light), (64, 1))[..., None], 3, axis=2)
    ours = studio.pixels(studio.rendered(deep_avif(levels, 9, 16)))[32, :, 1].astype(int)
    expected = srgb_levels(tone_mapped(np.stack([light] * 3, -1)), BT_2020)[:, 1]
    assert np.abs(ours - expected).max() <= 2


@pytest.mark.parametrize(("nits", "lowest", "highest"), [(203, 235, 240), (1000, 250, 254)])
def test_diffuse_white_is_white_and_highlights_differ_from_it(
    nits: float, lowest: int, highest: int
) -> None:
    levels = np.full((32, 32, 3), pq_level(np.array(float(nits))))
    ours = studio.pixels(studio.rendered(deep_avif(levels, 9, 16)))[16, 16]
    assert lowest <= ours.min() <= ours.max() <= highest


def test_p3_with_alpha_in_an_avif_keeps_its_alpha() -> None:
    picture = chart("RGBA")
    picture.putalpha(128)
    ours = squares(studio.rendered(avif(picture, 12, 13)), "RGBA")
    expected = np.asarray(by_littlecms(chart()))[SIDE // 2, SIDE // 2 :: SIDE]
    assert np.abs(ours[:, 3] - 128).max() <= 1
    assert np.abs(ours[:, :3] - expected).max() <= 4


def test_a_profile_in_an_avif_precedes_its_code_points() -> None:
    with Image.open(photo("display-p3.png")) as wide:
        source = avif(chart(), 9, 16, icc_profile=wide.info["icc_profile"])
    expected = np.asarray(by_littlecms(chart()))[SIDE // 2, SIDE // 2 :: SIDE]
    check(studio.rendered(source), expected, levels=4)


@pytest.mark.parametrize("levels_range", ["full", "limited"])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_monochrome_of_both_ranges_has_the_levels_of_libavif(mode: str, levels_range: str) -> None:
    picture = chart(mode)
    if mode == "LA":
        picture.putalpha(200)
    options: dict[str, Any] = {"quality": 98, "subsampling": "4:0:0", "range": levels_range}
    source = studio.saved(picture, "AVIF", **options)
    ours = squares(studio.rendered(source), "RGBA")
    assert np.abs(ours - squares(source, "RGBA")).max() <= 2


def test_a_webp_with_a_wide_profile_is_converted() -> None:
    with Image.open(photo("display-p3.png")) as wide:
        profile = wide.info["icc_profile"]
    source = studio.saved(chart(), "WEBP", lossless=True, icc_profile=profile)
    expected = np.asarray(by_littlecms(chart()))[SIDE // 2, SIDE // 2 :: SIDE]
    check(studio.rendered(source), expected, levels=2)


def grey_profile(exponent: float) -> bytes:
    """An ICC profile of grey with a gamma (ICC.1:2001, 6.3.2)."""
    tags = {
        b"desc": b"desc\0\0\0\0\0\0\0\5grey\0" + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(exponent * 256)) + bytes(2),
    }
    table, content = b"", b""
    for name, tag in tags.items():
        padded = tag + bytes(-len(tag) % 4)
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(content), len(tag))
        content += padded
    rest = struct.pack(">I", len(tags)) + table + content
    head = struct.pack(">I4sI", 128 + len(rest), b"lcms", 0x02400000) + b"mntrGRAYXYZ "
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(48) + rest


@pytest.mark.parametrize("exponent", [1.0, 1.8])
@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_grey_is_converted_by_its_profile(fmt: str, exponent: float) -> None:
    source = studio.saved(Image.new("L", (16, 16), 128), fmt, icc_profile=grey_profile(exponent))
    expected = srgb_levels(np.full(3, (128 / 255) ** exponent))[0]
    assert np.abs(studio.pixels(studio.rendered(source))[8, 8] - expected).max() <= 1


@pytest.mark.parametrize("exponent", [None, 2.2])
def test_a_profile_of_srgb_is_not_converted(exponent: float | None) -> None:
    """The levels do not change, and no time is spent."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    profile = made.tobytes() if exponent is None else grey_profile(exponent)
    picture = chart() if exponent is None else chart("L")
    source = studio.saved(picture, icc_profile=profile)
    with memory_file(source) as opened:
        found = load.open_source(opened, studio.LIMITS).header.colour
    assert found.profiled is (exponent is not None)


@pytest.mark.parametrize("source_type", ["jpeg", "webp", "gif", "tiff"])
def test_files_of_other_types_are_not_read_for_their_colour(source_type: str) -> None:
    image = pyvips.Image.black(8, 8, bands=3).copy(interpretation="srgb")
    assert colour.read(image, -1, source_type) == colour.STORED_AS_SRGB


def test_a_tiff_in_eight_bit_lab_is_refused_by_name() -> None:
    sentence = "the source is a TIFF in 8-bit CIELab, which is not supported: save it as RGB"
    expected = JobFailure("unsupported", sentence)
    assert studio.refused_or_known(case("C36-lab.tif"), strict=True) == expected
    assert studio.refused_or_known(studio.saved(chart("LAB"), "TIFF")) == expected


def test_a_tiff_in_sixteen_bit_lab_is_converted() -> None:
    levels = pyvips.Image.new_from_buffer(studio.saved(chart()), "")
    for space in ("lab", "labs"):
        page = levels.colourspace(space)
        check(studio.rendered(page.tiffsave_buffer()), 255 * STORED, levels=1)
        # A profile is left from another version of the image, and does not apply.
        with Image.open(photo("display-p3.png")) as wide:
            source = colour.with_profile(page, wide.info["icc_profile"]).tiffsave_buffer()
        check(studio.rendered(source), 255 * STORED, levels=1)


@pytest.mark.parametrize("kind", ["png", "avif"])
def test_damage_of_any_kind_raises_nothing(kind: str) -> None:
    """Bytes are replaced and cut off in the part that is read."""
    source = (
        avif(chart(), 9, 16)
        if kind == "avif"
        else with_chunks(studio.saved(chart()), cicp(9, 16), gama(1.0), chrm(P3))
    )
    image = pyvips.Image.new_from_buffer(source, "")
    for at in range(400):
        for damaged in (source[:at], source[:at] + b"\0" + source[at + 1 :]):
            for value in (damaged, damaged[:at] + b"\xff\xff" + damaged[at + 2 :]):
                with memory_file(value) as descriptor:
                    colour.read(image, descriptor, kind)


# Display P3 as the gamut of the result.


def in_p3(fmt: Format) -> EncoderProfile:
    return replace(studio.PROFILES[fmt], gamut=Gamut.P3)


def apple_p3() -> bytes:
    with Image.open(photo("display-p3.png")) as wide:
        profile: bytes = wide.info["icc_profile"]
    return profile


def as_srgb(encoded: bytes) -> studio.Pixels:
    """The pixels of a rendition by its profile, as a browser on an sRGB display shows them."""
    picture = studio.opened(encoded)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    converted = ImageCms.profileToProfile(
        picture.convert("RGB"),
        profile,
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    assert converted is not None
    return np.asarray(converted)


def wide_sources() -> dict[str, bytes]:
    plain = studio.saved(chart())
    return {
        "cICP": with_chunks(plain, cicp(12, 13)),
        "ICC": studio.saved(chart(), icc_profile=apple_p3()),
        "nclx": avif(chart(), 12, 13),
    }


@pytest.mark.parametrize("fmt", [Format.PNG, Format.JPEG, Format.WEBP, Format.AVIF])
@pytest.mark.parametrize("kind", ["cICP", "ICC", "nclx"])
def test_wide_colours_are_kept_in_display_p3(kind: str, fmt: Format) -> None:
    encoded = studio.rendered(wide_sources()[kind], in_p3(fmt))
    picture = studio.opened(encoded)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"])).profile
    assert profile.profile_description == "sP3C"
    assert len(picture.info["icc_profile"]) < 500
    # The levels of the source itself: nothing is clipped. Lossy formats smear the squares.
    assert np.abs(squares(encoded) - np.array(PATCHES)).mean() < (1.5 if fmt is Format.PNG else 5)


WIDE_CASES = (
    *("C04-p3-with-srgb-signature.jpg", "C28-cicp-pq.png", "C29-cicp-p3.png"),
    *("H07-pq.avif", "H08-cicp-p3.avif", "H11-patch-p3.avif"),
)
SRGB_CASES = ("C26-gama1.png", "C27-gama-chrm-swap.png", "C30-srgb-chunk-gama.png")


@pytest.mark.parametrize("name", WIDE_CASES)
def test_a_display_of_srgb_shows_both_gamuts_alike(name: str) -> None:
    ours = as_srgb(studio.rendered(case(name), in_p3(Format.PNG)))
    assert studio.difference(ours, shown(name)) < MEAN


@pytest.mark.parametrize("fmt", [Format.PNG, Format.JPEG, Format.WEBP, Format.AVIF, Format.GIF])
@pytest.mark.parametrize("name", [*SRGB_CASES, "kodak-15.png"])
def test_colours_that_srgb_has_are_sent_without_a_profile(name: str, fmt: Format) -> None:
    source = photo(name) if name.startswith("kodak") else case(name)
    box = studio.contain(96, 96)
    assert studio.rendered(source, in_p3(fmt), box=box) == studio.rendered(source, fmt, box=box)


def test_a_gif_is_always_srgb() -> None:
    source = wide_sources()["cICP"]
    assert studio.rendered(source, in_p3(Format.GIF)) == studio.rendered(source, Format.GIF)


@pytest.mark.parametrize("code", [4, 8, 9, 11, 12])
def test_each_wider_space_is_sent_in_display_p3(code: int) -> None:
    source = with_chunks(studio.saved(chart()), cicp(code, 13))
    ours = as_srgb(studio.rendered(source, in_p3(Format.PNG)))[SIDE // 2, SIDE // 2 :: SIDE]
    plain = squares(studio.rendered(source))
    # Both clip at the edges of their gamut. Where sRGB clips nothing they are equal.
    within = ((plain > 2) & (plain < 253)).all(axis=1)
    assert within.sum() >= 3
    assert np.abs(ours[within] - plain[within]).max() <= LEVELS


def test_adobe_rgb_prophoto_and_cmyk_are_wide() -> None:
    for name in ("prophoto.png", "cmyk.jpg"):
        encoded = studio.rendered(photo(name), in_p3(Format.PNG), box=studio.contain(64, 64))
        assert "icc_profile" in studio.opened(encoded).info
    assert colour.SourceColour(
        colour.ColourSpace((0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.329))
    ).wide


@pytest.mark.parametrize("code", [1, 5, 6, 7, 22])
def test_the_primaries_of_television_are_not_wide(code: int) -> None:
    source = with_chunks(studio.saved(chart()), cicp(code, 13))
    assert "icc_profile" not in studio.opened(studio.rendered(source, in_p3(Format.PNG))).info


def test_grey_needs_no_gamut() -> None:
    source = with_chunks(studio.saved(chart("L")), cicp(9, 13))
    assert studio.rendered(source, in_p3(Format.PNG)) == studio.rendered(source)


def test_alpha_a_base_and_a_crop_keep_display_p3() -> None:
    picture = chart("RGBA")
    picture.putalpha(200)
    source = studio.saved(picture, icc_profile=apple_p3())
    base = studio.output(source, studio.WHOLE, in_p3(Format.PNG), base=(SIDE * len(PATCHES), SIDE))
    (encoded,) = studio.made(source, base)
    levels = squares(encoded, "RGBA")
    assert set(levels[:, 3]) == {200}
    assert np.abs(levels[:, :3] - np.array(PATCHES)).max() <= LEVELS
    part = studio.rendered(source, in_p3(Format.WEBP), box=studio.cover(16, 16))
    assert "icc_profile" in studio.opened(part).info


def test_one_set_may_have_both_gamuts() -> None:
    source = wide_sources()["cICP"]
    outputs = [studio.output(source, studio.WHOLE, one) for one in (Format.PNG, in_p3(Format.PNG))]
    plain, wide = studio.made(source, *outputs)
    assert "icc_profile" not in studio.opened(plain).info
    assert (studio.pixels(plain) == studio.pixels(studio.rendered(source))).all()
    assert (studio.pixels(wide) == studio.pixels(studio.rendered(source, in_p3(Format.PNG)))).all()


def test_an_animation_in_display_p3_keeps_its_colours() -> None:
    other = chart().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    source = studio.saved(
        chart(), "WEBP", save_all=True, append_images=[other], lossless=True, icc_profile=apple_p3()
    )
    encoded = studio.rendered(source, in_p3(Format.WEBP), animated=True)
    assert "icc_profile" in studio.opened(encoded).info
    assert len(studio.frames(encoded)) == 2
    assert np.abs(squares(encoded) - np.array(PATCHES)).mean() < 5


def test_a_copyright_notice_and_a_profile_go_together() -> None:
    for fmt in (Format.PNG, Format.JPEG, Format.WEBP, Format.AVIF):
        encoded = studio.rendered(wide_sources()["cICP"], in_p3(fmt), notice="Müller")
        assert "icc_profile" in studio.opened(encoded).info
        assert b"M&#252;ller" in pyvips.Image.new_from_buffer(encoded, "").get("xmp-data")


def test_a_quality_search_compares_within_display_p3() -> None:
    source = studio.saved(
        Image.open(photo("kodak-23.png")).resize((192, 128)), icc_profile=apple_p3()
    )
    search = QualitySearch(75, 40, 95)
    result, encoded = studio.attempt(source, in_p3(Format.JPEG), search=search)
    assert isinstance(result, RenderResult)
    assert result.score is not None
    assert result.score >= 75
    assert "icc_profile" in studio.opened(encoded).info


@pytest.mark.parametrize("space", ["lab", "labs"])
@pytest.mark.parametrize("alpha", [None, 128, 255])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_colour_in_lab_is_not_clipped_to_srgb_if_p3_has_it(
    space: str, alpha: int | None, orientation: int
) -> None:
    wanted = [250, 20, 20]
    light = srgb_light(np.array(wanted) / 255)
    # Less than nothing of the green and the blue of sRGB.
    light = np.linalg.solve(to_xyz(BT_709), to_xyz(P3)) @ light
    assert light.min() < -0.01
    page = pyvips.Image.black(64, 32, bands=3).linear([1, 1, 1], light.tolist())
    page = page.cast("float").copy(interpretation="scrgb").colourspace(space)
    page = page if alpha is None else page.bandjoin(alpha).cast(page.format)
    page = page.copy(interpretation=space)
    page.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    size = (20, 10) if orientation == 1 else (10, 20)
    with memory_file(page.tiffsave_buffer()) as source:
        opened = load.open_source(source, studio.LIMITS)
        found = load.shrunk(opened, size, Gamut.P3).copy_memory()
    assert (found.width, found.height, found.format) == (*size, "uchar")
    assert found.bands == (3 if alpha is None else 4)
    assert found(5, 5)[:3] == pytest.approx(wanted, abs=1)
    assert found(5, 5)[3:] == ([] if alpha is None else [alpha])


def test_no_colour_of_srgb_is_outside_of_it_in_lab() -> None:
    page = pyvips.Image.new_from_array(np.asarray(chart())).copy(interpretation="srgb")
    found = colour.SourceColour(lab=True)
    for gamut in Gamut:
        assert colour.outside(page.colourspace("labs"), found, gamut) == 0


def test_a_tiff_in_lab_is_sent_in_display_p3() -> None:
    lab = pyvips.Image.new_from_array(np.asarray(chart())).copy(interpretation="srgb")
    source = lab.colourspace("labs").tiffsave_buffer()
    encoded = studio.rendered(source, in_p3(Format.PNG))
    assert "icc_profile" in studio.opened(encoded).info
    found = studio.pixels(encoded)[SIDE // 2, SIDE // 2 :: SIDE]
    wanted = srgb_levels(srgb_light(np.array(PATCHES) / 255), target=P3)
    assert np.abs(found - wanted).max() <= 1


def test_the_gamut_changes_the_keys_of_all_formats_but_gif() -> None:
    plain, wide = EncoderSettings().stages(), EncoderSettings(output_gamut=Gamut.P3).stages()
    same = {fmt for fmt in plain if plain[fmt].draft.profile.text == wide[fmt].draft.profile.text}
    assert same == {Format.GIF}
    assert plain[Format.JPEG].draft.profile.text == "jpeg:" + ",".join(
        f"{name}={value}" for name, value in plain[Format.JPEG].draft.profile.options
    )
