"""TIFF that libvips misreads is converted, or refused with the cause and the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.worker.imaging import tiff
from tests.rendering.worker.imaging import crafted, studio
from tests.support.memory_files import memory_file

SIZE = WIDTH, HEIGHT = 16, 8
COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [220, 220, 220]], np.uint8)
RGB = np.repeat(np.repeat(COLOURS.reshape(2, 2, 3), HEIGHT // 2, 0), WIDTH // 2, 1)
GREY = RGB[..., 0]
BITS, PHOTOMETRIC, SAMPLES, PLANES, EXTRA, NUMBERS = 258, 262, 277, 284, 338, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, COLOUR, PALETTE, INKS, YCBCR = 0, 1, 2, 3, 5, 6
FLOATS, INTEGERS = 3, 2
ALPHA = 128


def made(
    levels: Any, photometric: int, *, order: str = "<", big: bool = False, **tags: Any
) -> bytes:
    """A TIFF of these levels; tags are named by ``t`` and their number."""
    levels = np.atleast_3d(levels)
    more = {int(name[1:]): value for name, value in tags.items()}
    samples = levels.shape[2]
    base = {BITS: [8 * levels.itemsize] * samples, PHOTOMETRIC: [photometric], SAMPLES: [samples]}
    number = {"f": FLOATS, "i": INTEGERS}.get(levels.dtype.kind, 1)
    base[NUMBERS] = [number] * samples
    stored = levels.astype(levels.dtype.newbyteorder(order))
    planes = [stored.tobytes()]
    if more.get(PLANES) == [2]:
        planes = [np.ascontiguousarray(stored[..., at]).tobytes() for at in range(samples)]
    return crafted.tiff(SIZE, planes, base | more, order=order, big=big)


def with_alpha(levels: Any, alpha: float = ALPHA) -> Any:
    levels = np.atleast_3d(levels)
    return np.concatenate([levels, np.full_like(levels[..., :1], alpha)], 2)


def scaled(levels: Any, kind: str) -> Any:
    """Levels of 8 bits in others."""
    if np.dtype(kind).kind == "f":
        return (levels / 255).astype(kind)
    return levels.astype("u8").__mul__(np.iinfo(kind).max // 255).astype(kind)


def difference(source: bytes, wanted: Any, mode: str = "RGB") -> int:
    """The largest difference of a level; a strict probe accepts the source."""
    assert studio.looked_at(source, strict=True).source_type == "tiff"
    found = studio.pixels(studio.rendered(source), mode)
    return int(np.abs(found.astype(int) - wanted.astype(int)).max())


def grey(levels: Any) -> Any:
    return np.repeat(np.atleast_3d(levels), 3, 2)


def srgb(light: Any) -> Any:
    """Levels of linear light."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


def inks(levels: Any) -> Any:
    return np.asarray(Image.fromarray(levels).convert("CMYK"))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
def test_unsigned_levels_are_scaled(kind: str, order: str, *, big: bool) -> None:
    options: dict[str, Any] = {"order": order, "big": big}
    levels = scaled(RGB, kind)
    assert difference(made(levels, COLOUR, **options), RGB) == 0
    assert difference(made(levels, COLOUR, t284=[2], **options), RGB) == 0
    assert difference(made(levels[..., 0], BLACK_IS_ZERO, **options), grey(GREY)) == 0
    dark = scaled(255 - GREY, kind)
    assert difference(made(dark, WHITE_IS_ZERO, **options), grey(GREY)) <= 1


@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
def test_an_alpha_is_scaled_with_the_colours(kind: str) -> None:
    wanted = with_alpha(RGB)
    levels = scaled(wanted, kind)
    assert difference(made(levels, COLOUR, t338=[2]), wanted, "RGBA") <= 1
    assert difference(made(levels[..., 2:], BLACK_IS_ZERO, t338=[2]), wanted[..., 2:], "LA") <= 1
    painted = with_alpha(inks(RGB))
    shown = studio.pixels(studio.rendered(made(inks(RGB), INKS)), "RGB")
    found = made(scaled(painted, kind), INKS, t338=[2])
    assert difference(found, with_alpha(shown), "RGBA") <= 2


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_colours_that_were_multiplied_by_an_alpha_are_divided(kind: str) -> None:
    share = ALPHA / 255
    wanted = RGB if kind != "f4" else srgb(RGB / 255)
    levels = np.concatenate([RGB * share, np.full_like(RGB[..., :1], ALPHA)], 2)
    stored = (levels / 255) if kind == "f4" else levels.round() * (np.iinfo(kind).max // 255)
    source = made(stored.astype(kind), COLOUR, t338=[1])
    assert difference(source, with_alpha(wanted), "RGBA") <= 2


@pytest.mark.parametrize("kind", ["f2", "f4"])
def test_floats_are_linear_light(kind: str) -> None:
    levels = scaled(RGB, kind)
    assert difference(made(levels, COLOUR), srgb(RGB / 255)) <= 1
    assert difference(made(levels[..., 0], BLACK_IS_ZERO), grey(srgb(GREY / 255))) <= 1
    clear = with_alpha(levels[..., 0], ALPHA / 255)
    assert difference(made(clear, BLACK_IS_ZERO, t338=[2]), with_alpha(srgb(GREY / 255)), "LA") <= 1


def test_grey_floats_up_to_255_are_levels() -> None:
    assert difference(made(GREY.astype("f4"), BLACK_IS_ZERO), grey(GREY)) == 0
    answer = studio.refused_or_known(made(GREY * np.float32(200), BLACK_IS_ZERO))
    assert isinstance(answer, JobFailure)
    assert (answer.kind, answer.traceback) == ("unsupported", "")
    assert "above 255: save it with 16 bits" in answer.detail


def profile() -> list[int]:
    wide = pyvips.Image.black(1, 1, bands=3).copy(interpretation="srgb")
    found: bytes = wide.icc_transform("p3", input_profile="srgb").get("icc-profile-data")
    return list(found)


@pytest.mark.parametrize("kind", ["u2", "u4", "f2", "f4"])
def test_a_profile_applies_to_levels_of_every_kind(kind: str) -> None:
    tags: dict[str, Any] = {"t34675": profile()}
    wanted = studio.pixels(studio.rendered(made(RGB, COLOUR, **tags)))
    assert wanted[0, 0, 0] > RGB[0, 0, 0]
    assert difference(made(scaled(RGB, kind), COLOUR, **tags), wanted) <= 1


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_ycbcr_is_converted(compression: str | None) -> None:
    options = {"compression": compression} if compression else {}
    source = studio.saved(Image.fromarray(RGB).convert("YCbCr"), "TIFF", **options)
    assert difference(source, RGB) <= (8 if compression == "jpeg" else 2)


def test_ycbcr_has_its_own_ranges_and_weights() -> None:
    red, green, blue = 0.2126, 0.7152, 0.0722
    levels = RGB.astype(float)
    luma = levels @ [red, green, blue]
    chroma = [
        (levels[..., 2] - luma) / (2 * (1 - blue)) * 112 / 127 + 128,
        (levels[..., 0] - luma) / (2 * (1 - red)) * 112 / 127 + 128,
    ]
    coded = np.stack([luma * 219 / 255 + 16, *chroma], 2).round().astype(np.uint8)
    tags: dict[str, Any] = {
        "t529": [2126, 10_000, 7152, 10_000, 722, 10_000],
        "t530": [1, 1],
        "t532": [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1],
    }
    assert difference(made(coded, YCBCR, **tags), RGB) <= 3


@pytest.mark.parametrize(
    "useless",
    [
        {"t529": [1, 1]},
        {"t529": [1, 1, 0, 1, 0, 1]},
        {"t529": [1, 0, 1, 0, 1, 0]},
        {"t532": [16, 1, 16, 1, 128, 1, 255, 1, 128, 1, 255, 1]},
        {"t532": [16, 1, 16, 0, 128, 1, 255, 1, 128, 1, 255, 1]},
        {"t532": [16, 1]},
    ],
)
def test_useless_ranges_and_weights_are_ignored(useless: dict[str, Any]) -> None:
    coded = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    assert difference(made(coded, YCBCR, t530=[1, 1], **useless), RGB) <= 2


def test_ycbcr_with_less_chroma_is_left_to_the_decoder() -> None:
    coded = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    luma = [coded[top::2, left::2, :1] for top in (0, 1) for left in (0, 1)]
    blocks = np.concatenate([*luma, coded[::2, ::2, 1:]], 2)
    tags = {BITS: [8] * 3, PHOTOMETRIC: [YCBCR], SAMPLES: [3], 530: [2, 2]}
    assert difference(crafted.tiff(SIZE, blocks.tobytes(), tags), RGB) <= 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_few_bits_and_palettes_are_read(bits: int) -> None:
    most = (1 << bits) - 1
    levels = np.round(GREY / 255 * most).astype(int)
    packed = np.packbits(
        (levels[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(HEIGHT, -1), 1
    )
    stored = packed.tobytes() if bits < 16 else levels.astype("<u2").tobytes()
    shown = grey(np.round(levels / most * 255))
    tags = {BITS: [bits], SAMPLES: [1]}
    ramp = [round(at / most * 65535) for at in range(most + 1)]
    colours = {320: [*ramp, *ramp[::-1], *[0] * (most + 1)]}
    assert difference(crafted.tiff(SIZE, stored, tags | {PHOTOMETRIC: [1]}), shown) <= 1
    assert difference(crafted.tiff(SIZE, stored, tags | {PHOTOMETRIC: [0]}), 255 - shown) <= 1
    shown[..., 1], shown[..., 2] = 255 - shown[..., 0], 0
    source = crafted.tiff(SIZE, stored, tags | {PHOTOMETRIC: [PALETTE]} | colours)
    assert difference(source, shown) <= 1


def test_logluv_is_converted() -> None:
    """Of one grey: logarithm of the luminance, and u' and v' of equal energy, which is neutral."""
    luminance = ((220 / 255 + 0.055) / 1.055) ** 2.4
    pixel = round(256 * (np.log2(luminance) + 64)) << 16 | 86 << 8 | 194
    planes = [bytes([WIDTH]) + bytes([pixel >> shift & 255] * WIDTH) for shift in (24, 16, 8, 0)]
    tags = {BITS: [16] * 3, 259: [34676], PHOTOMETRIC: [32845], SAMPLES: [3], NUMBERS: [2] * 3}
    source = crafted.tiff(SIZE, b"".join(planes) * HEIGHT, tags)
    assert difference(source, np.full_like(RGB, 220)) <= 4


def test_what_it_returns_is_upright() -> None:
    source = made(scaled(RGB, "u4"), COLOUR, t274=[6])
    known = studio.looked_at(source, strict=True)
    assert (known.width, known.height) == (HEIGHT, WIDTH)
    found = studio.pixels(studio.rendered(source))
    assert np.array_equal(found, np.rot90(RGB, -1))


EIGHT = "save it with 8 or 16 bits"
AS_RGB = "save it as RGB"
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "signed": (made(GREY.astype("i2"), BLACK_IS_ZERO), "signed integers", EIGHT),
    "signed RGB": (made(RGB.astype("i4"), COLOUR), "signed integers", EIGHT),
    "complex": (made(GREY.astype("u4"), BLACK_IS_ZERO, t339=[5]), "complex numbers", EIGHT),
    "double": (made(scaled(RGB, "f8"), COLOUR), "64-bit floating-point levels", EIGHT),
    "64 bits": (made(RGB.astype("u8"), COLOUR), "64-bit levels", EIGHT),
    "floats of ink": (made(scaled(inks(RGB), "f4"), INKS), "neither grey nor RGB", EIGHT),
    "floats, white is zero": (made(scaled(GREY, "f4"), 0), "neither grey nor RGB", EIGHT),
    "12 bits": (made(GREY, BLACK_IS_ZERO, t258=[12]), "12-bit levels", EIGHT),
    "5, 6 and 5 bits": (made(RGB, COLOUR, t258=[5, 6, 5]), "different depths", EIGHT),
    "palette and alpha": (
        made(with_alpha(GREY), PALETTE, t338=[2], t320=[0] * 768),
        "a palette and an alpha",
        AS_RGB,
    ),
    "inks": (made(inks(RGB), INKS, t332=[2]), "other inks than CMYK", AS_RGB),
    "multiplied inks": (
        made(scaled(with_alpha(inks(RGB)), "u2"), INKS, t338=[1]),
        "premultiplied alpha of 16 bits",
        AS_RGB,
    ),
    "multiplied 32 bits": (
        made(scaled(with_alpha(RGB), "u4"), COLOUR, t338=[1]),
        "premultiplied alpha of 32 bits",
        AS_RGB,
    ),
    "multiplied grey floats": (
        made(scaled(with_alpha(GREY), "f4"), BLACK_IS_ZERO, t338=[1]),
        "premultiplied alpha of 32 bits",
        AS_RGB,
    ),
    "YCbCr in planes": (made(RGB, YCBCR, t284=[2], t530=[1, 1]), "YCbCr in planes", AS_RGB),
    "YCbCr of 16 bits": (made(RGB.astype("u2"), YCBCR, t530=[1, 1]), "YCbCr in planes", AS_RGB),
    "raw": (made(GREY, 32803), "the raw data of a sensor", AS_RGB),
    "linear raw": (made(RGB, 34892), "the raw data of a sensor", AS_RGB),
    "LogL": (made(GREY, 32844), "LogL", AS_RGB),
    "mask": (made(GREY, 4), "a transparency mask", AS_RGB),
    "unknown": (made(GREY, 51177), "the photometric interpretation 51177", AS_RGB),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_with_cause_and_remedy(name: str) -> None:
    source, cause, remedy = REFUSED[name]
    answer = studio.refused_or_known(source)
    assert isinstance(answer, JobFailure)
    assert answer.kind == "unsupported"
    assert cause in answer.detail
    assert answer.detail.endswith(remedy)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("photometric", "name"), [(8, "8-bit CIELab"), (9, "ICCLab"), (10, "ITULab"), (2, None)]
)
def test_encodings_of_lab_that_libvips_cannot_read_are_found(
    photometric: int, name: str | None, order: str, *, big: bool
) -> None:
    with memory_file(made(RGB, photometric, order=order, big=big)) as source:
        layout = tiff.read(source)
    assert layout is not None
    reason = layout.unsupported()
    expected = name and f"in {name}, which is not supported: save it as RGB"
    assert reason == expected


@pytest.mark.parametrize("offset", [2**63 - 4, 2**64 - 1])
def test_an_offset_beyond_every_file_is_damage(offset: int) -> None:
    source = bytearray(made(RGB, COLOUR, big=True))
    source[8:16] = offset.to_bytes(8, "little")
    with memory_file(bytes(source)) as opened:
        assert tiff.read(opened) is None
    answer = studio.refused_or_known(bytes(source))
    assert isinstance(answer, JobFailure)
    assert (answer.kind, answer.traceback) == ("undecodable", "")


def test_a_damaged_directory_is_left_to_libvips() -> None:
    whole = made(RGB, COLOUR)
    for length in range(0, 200, 3):
        with memory_file(whole[:length]) as source:
            layout = tiff.read(source)
        assert layout is None or layout.unsupported() is None or length < len(whole)
    with memory_file(crafted.tiff(SIZE, RGB.tobytes(), {BITS: [8] * 3})) as source:
        assert tiff.read(source) is None
