"""Animated PNG: every way to dispose of a frame and to blend it, delays, damage."""

from __future__ import annotations

import struct
import time
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image
from PIL.ImageOps import exif_transpose

from proxy.domain.formats import Format
from proxy.domain.variant import Gamut
from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.worker.imaging import animated_png
from tests.rendering.worker.imaging import studio
from tests.support.photos import case

SIDE = 24
NONE, BACKGROUND, PREVIOUS = 0, 1, 2
SOURCE, OVER = 0, 1
CLEAR = (0, 0, 0, 0)

Box = tuple[int, int, int, int]
"""Left, top, width, height."""
Drawn = tuple[Box, tuple[int, int, int, int], int, int]
"""A box, its colour, how it is disposed of, and how it is blended."""


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))


def coded(box: Box, colour: tuple[int, int, int, int]) -> bytes:
    _, _, width, height = box
    return zlib.compress((b"\0" + bytes(colour) * width) * height)


def apng(*frames: Drawn, default: bool = False, delay: tuple[int, int] = (1, 10)) -> bytes:
    """An animation of plain boxes; with ``default``, its still image is not a frame."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    made += chunk(b"acTL", struct.pack(">II", len(frames), 3))
    if default:
        made += chunk(b"IDAT", coded((0, 0, SIDE, SIDE), (9, 9, 9, 255)))
    number = 0
    for index, (box, colour, dispose, blend) in enumerate(frames):
        left, top, width, height = box
        control = (number, width, height, left, top, *delay, dispose, blend)
        made += chunk(b"fcTL", struct.pack(">IIIIIHHBB", *control))
        number += 1
        if index or default:
            made += chunk(b"fdAT", struct.pack(">I", number) + coded(box, colour))
            number += 1
        else:
            made += chunk(b"IDAT", coded(box, colour))
    return made + chunk(b"IEND", b"")


WHOLE: Box = (0, 0, SIDE, SIDE)
RED, HALF_BLUE = (255, 0, 0, 255), (0, 0, 255, 128)
CORNER: Box = (0, 0, 8, 8)


def moving(source: bytes) -> list[studio.Pixels]:
    """The frames of a lossless rendition."""
    profile = studio.PROFILES[Format.WEBP]
    options = dict(profile.options) | {"lossless": True}
    exact = type(profile)(Format.WEBP, tuple(options.items()))
    # Not by Pillow: it takes the first frame's lack of transparency for that of all.
    column = pyvips.Image.new_from_buffer(studio.rendered(source, exact, animated=True), "", n=-1)
    column = column if column.hasalpha() else column.addalpha()
    pages = column.height // column.get("page-height")
    return list(column.numpy().reshape(pages, -1, column.width, 4))


def test_the_case_moves_as_a_browser_shows_it() -> None:
    source = case("N07-apng.png")
    known = studio.looked_at(source, strict=True)
    assert (known.source_type, known.pages) == ("png", 5)
    found, wanted = moving(source.read_bytes()), studio.frames(source.read_bytes())
    assert len(found) == len(wanted) == 5
    for one, other in zip(found, wanted, strict=True):
        assert studio.difference(studio.on_white(one), studio.on_white(other)) < 1


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
def test_it_moves_in_every_format_that_can(fmt: Format) -> None:
    encoded = studio.rendered(case("N07-apng.png"), fmt, animated=True)
    assert len(studio.frames(encoded)) == 5


def at(frame: studio.Pixels, x: int, y: int) -> tuple[int, ...]:
    return tuple(int(level) for level in frame[y, x])


@pytest.mark.parametrize(
    ("dispose", "left"), [(NONE, (0, 255, 0, 255)), (BACKGROUND, CLEAR), (PREVIOUS, RED)]
)
def test_a_frame_is_disposed_of_as_it_says(dispose: int, left: tuple[int, ...]) -> None:
    frames = moving(
        apng(
            (WHOLE, RED, NONE, SOURCE),
            (CORNER, (0, 255, 0, 255), dispose, SOURCE),
            ((16, 16, 8, 8), (0, 0, 255, 255), NONE, SOURCE),
        )
    )
    assert at(frames[1], 2, 2) == (0, 255, 0, 255)
    assert at(frames[2], 2, 2)[3] == left[3]
    assert not left[3] or at(frames[2], 2, 2) == left
    assert at(frames[2], 20, 20) == (0, 0, 255, 255)
    assert at(frames[2], 12, 4) == RED


def test_a_first_frame_whose_predecessor_is_wanted_leaves_nothing() -> None:
    frames = moving(apng((WHOLE, RED, PREVIOUS, SOURCE), (CORNER, RED, NONE, SOURCE)))
    assert at(frames[1], 12, 12)[3] == 0


def test_a_frame_is_blended_as_it_says() -> None:
    frames = moving(
        apng(
            (WHOLE, RED, NONE, SOURCE),
            (CORNER, HALF_BLUE, NONE, OVER),
            ((16, 16, 8, 8), HALF_BLUE, NONE, SOURCE),
        )
    )
    red, green, blue, alpha = at(frames[1], 2, 2)
    assert (green, alpha) == (0, 255)
    assert abs(red - 127) <= 1
    assert abs(blue - 128) <= 1
    assert at(frames[2], 20, 20)[3] == 128


def test_delays_and_repetitions_are_kept() -> None:
    source = apng((WHOLE, RED, NONE, SOURCE), (CORNER, HALF_BLUE, NONE, OVER), delay=(3, 0))
    made = studio.opened(studio.rendered(source, Format.WEBP, animated=True))
    made.load()
    # The unit is 1/100 s if the file names none.
    assert made.info["duration"] == 30
    assert made.info["loop"] == 3


def test_a_default_image_is_not_a_frame() -> None:
    source = apng((WHOLE, RED, NONE, SOURCE), (CORNER, HALF_BLUE, NONE, OVER), default=True)
    assert studio.looked_at(source, strict=True).pages == 2
    assert at(moving(source)[0], 12, 12) == RED


def test_a_still_rendition_is_the_first_frame() -> None:
    source = apng((WHOLE, RED, NONE, SOURCE), (WHOLE, HALF_BLUE, NONE, SOURCE), default=True)
    assert studio.pixels(studio.rendered(source))[0, 0].tolist() == list(RED[:3])


def test_one_frame_is_a_still_image() -> None:
    assert studio.looked_at(apng((WHOLE, RED, NONE, SOURCE))).pages == 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_frames_of_every_mode_are_decoded(mode: str) -> None:
    pages = [Image.new("RGB", (30, 20), colour) for colour in ("red", "white", "black")]
    pages = [page.convert(mode) for page in pages]
    source = studio.saved(
        pages[0], "PNG", save_all=True, append_images=pages[1:], duration=100, blend=0
    )
    found = moving(source)
    assert len(found) == 3
    for frame, page in zip(found, pages, strict=True):
        assert studio.difference(frame[..., :3], studio.pixels(page)) < 1


def test_16_bits_are_reduced() -> None:
    levels = np.full((SIDE, SIDE), 40_000, np.uint16)
    still = studio.saved(Image.fromarray(levels))
    end = still.index(b"IDAT") - 4
    data_end = still.index(b"IEND") - 4
    control = struct.pack(">IIIIHHBB", SIDE, SIDE, 0, 0, 1, 10, 0, 0)
    body = still[end + 8 : data_end - 4]
    source = still[:end] + chunk(b"acTL", struct.pack(">II", 2, 0))
    source += chunk(b"fcTL", struct.pack(">I", 0) + control) + chunk(b"IDAT", body)
    source += chunk(b"fcTL", struct.pack(">I", 1) + control)
    source += chunk(b"fdAT", struct.pack(">I", 2) + body) + chunk(b"IEND", b"")
    assert studio.looked_at(source, strict=True).pages == 2
    level = studio.pixels(studio.rendered(source))[0, 0, 0]
    assert abs(int(level) - 40_000 // 257) <= 1


def test_a_damaged_animation_ends_with_its_last_complete_frame() -> None:
    whole = apng(
        (WHOLE, RED, NONE, SOURCE),
        (CORNER, (0, 255, 0, 255), NONE, SOURCE),
        (WHOLE, HALF_BLUE, NONE, SOURCE),
    )
    cut = whole[: whole.rindex(b"fdAT") + 16]
    answer = studio.refused_or_known(cut, strict=True)
    assert isinstance(answer, JobFailure)
    assert answer.kind == "undecodable"
    frames = moving(cut)
    assert len(frames) == 2
    assert at(frames[1], 2, 2) == (0, 255, 0, 255)


@pytest.mark.parametrize("box", [(0, 0, SIDE + 1, 4), (20, 0, 8, 8), (0, 0, 0, 4)])
def test_a_frame_outside_of_the_image_ends_the_animation(box: Box) -> None:
    source = apng((WHOLE, RED, NONE, SOURCE), (box, RED, NONE, SOURCE))
    assert isinstance(studio.refused_or_known(source, strict=True), JobFailure)
    # Equal frames are joined, so one remains.
    assert studio.pixels(studio.rendered(source))[0, 0].tolist() == list(RED[:3])


def declaring(frames: int, source: bytes) -> bytes:
    at = source.index(b"acTL") + 4
    return source[:at] + struct.pack(">I", frames) + source[at + 4 :]


@pytest.mark.parametrize("missing", [0, 12])
def test_too_many_frames_are_refused_by_the_header(missing: int) -> None:
    whole = apng(*[((0, 0, 1, 1), RED, NONE, SOURCE)] * 501)
    # If the file is incomplete, what it declares counts.
    source = declaring(10_000_000, apng((WHOLE, RED, NONE, SOURCE)) if missing else whole)
    answer = studio.refused_or_known(source[: len(source) - missing])
    assert isinstance(answer, JobFailure)
    assert answer.kind == "too_large"
    assert "more than 500 pages" in answer.detail


def test_many_chunks_are_counted_quickly() -> None:
    whole = declaring(3, apng((WHOLE, RED, NONE, SOURCE)))
    filled = whole[:-12] + chunk(b"fdAT", b"") * 2_000_000 + whole[-12:]
    started = time.process_time()
    assert animated_png.animation_of(filled) == (3, 3)
    assert time.process_time() - started < 1


def without_frames() -> bytes:
    """A still image that declares an animation."""
    source = apng((WHOLE, RED, NONE, SOURCE))
    at = source.index(b"fcTL") - 4
    return declaring(3, source[:at] + source[at + 12 + 26 :])


def test_a_declared_animation_without_frames_is_a_still_image() -> None:
    assert studio.looked_at(without_frames(), strict=True).pages == 1
    assert studio.pixels(studio.rendered(without_frames()))[0, 0].tolist() == list(RED[:3])
    one = declaring(3, apng((WHOLE, RED, NONE, SOURCE)))
    assert studio.looked_at(one, strict=True).pages == 1


def test_frames_that_a_complete_file_does_not_have_are_not_missed() -> None:
    source = declaring(5, apng((WHOLE, RED, NONE, SOURCE), (CORNER, HALF_BLUE, NONE, SOURCE)))
    assert studio.looked_at(source, strict=True).pages == 2
    assert len(moving(source)) == 2
    # Without its end it is truncated.
    assert isinstance(studio.refused_or_known(source[:-12], strict=True), JobFailure)


QUARTERS = (
    np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [220, 220, 220]]], np.uint8)
    .repeat(12, 0)
    .repeat(20, 1)
)


def animated(fmt: str, mode: str = "RGB", **options: Any) -> bytes:
    """Four colours, and the same with black in the first pixels."""
    first = Image.fromarray(QUARTERS).convert(mode)
    second = first.copy()
    second.paste(0 if mode == "L" else (0, 0, 0), (0, 0, 4, 4))
    return studio.saved(first, fmt, save_all=True, append_images=[second], duration=100, **options)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x112] = orientation
    return made


def upright(levels: Any, orientation: int) -> Any:
    still = studio.opened(studio.saved(Image.fromarray(levels), exif=exif(orientation)))
    return np.asarray(exif_transpose(still))


@pytest.mark.parametrize(
    ("orientation", "colour"),
    [*((at, None) for at in range(1, 9)), (5, b"gAMA"), (3, b"cHRM"), (6, b"cICP")],
)
def test_frames_are_upright(orientation: int, colour: bytes | None) -> None:
    source = animated("PNG", exif=exif(orientation))
    still = studio.saved(Image.fromarray(QUARTERS), exif=exif(orientation))
    values = {
        b"gAMA": struct.pack(">I", 100_000),
        b"cHRM": struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
        b"cICP": bytes((12, 13, 0, 1)),
    }
    if colour is not None:
        source, still = (
            one[:33] + chunk(colour, values[colour]) + one[33:] for one in (source, still)
        )
    wanted = (
        upright(QUARTERS, orientation) if colour is None else studio.pixels(studio.rendered(still))
    )
    known = studio.looked_at(source, strict=True)
    assert (known.height, known.width, known.pages) == (*wanted.shape[:2], 2)
    assert studio.difference(studio.pixels(studio.rendered(source)), wanted) < 1
    frames = moving(source)
    assert len(frames) == 2
    assert studio.difference(frames[0][..., :3], wanted) < 1
    small = studio.rendered(source, Format.GIF, animated=True, box=studio.contain(20, 20))
    assert studio.frames(small)[1].shape[:2] == tuple(round(side / 2) for side in wanted.shape[:2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_of_webp_are_upright(orientation: int) -> None:
    source = animated("WEBP", lossless=True, exif=exif(orientation))
    wanted = upright(QUARTERS, orientation)
    known = studio.looked_at(source, strict=True)
    assert (known.height, known.width, known.pages) == (*wanted.shape[:2], 2)
    assert studio.difference(studio.pixels(studio.rendered(source)), wanted) < 1
    for frame in moving(source):
        assert studio.difference(frame[..., :3], wanted) < 2


def p3_profile() -> bytes:
    patch = pyvips.Image.black(1, 1, bands=3).copy(interpretation="srgb")
    found: bytes = patch.icc_transform("p3", input_profile="srgb").get("icc-profile-data")
    return found


def grey_profile() -> bytes:
    """A grey profile of linear light (ICC.1:2022, 8.5)."""
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    curve = struct.pack(">4sII", b"curv", 0, 0)
    text = struct.pack(">4sI", b"text", 0) + b"none\0\0\0\0"
    description = struct.pack(">4sII", b"desc", 0, 2) + b"x\0" + bytes(78) + bytes(2)
    tags = {b"wtpt": white, b"kTRC": curve, b"cprt": text, b"desc": description}
    at = 128 + 4 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, at + len(bodies), len(body))
        bodies += body
    head = struct.pack(
        ">I4sI4s4s4s", at + len(bodies), bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + bodies


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_profile_applies_to_every_frame(mode: str, orientation: int) -> None:
    icc = grey_profile() if mode == "L" else p3_profile()
    options: dict[str, Any] = {"icc_profile": icc, "exif": exif(orientation)}
    source = animated("PNG", mode, **options)
    still = studio.saved(Image.fromarray(QUARTERS).convert(mode), **options)
    plain = studio.pixels(studio.rendered(animated("PNG", mode, exif=exif(orientation))))
    wanted = studio.pixels(studio.rendered(still))
    assert studio.difference(wanted, plain) > 3
    assert studio.looked_at(source, strict=True).pages == 2
    assert studio.difference(studio.pixels(studio.rendered(source)), wanted) < 1
    frames = moving(source)
    assert len(frames) == 2
    assert studio.difference(frames[0][..., :3], wanted) < 1


def test_frames_in_display_p3_are_sent_in_display_p3() -> None:
    source = animated("PNG", icc_profile=p3_profile())
    wide = replace(studio.LOSSLESS, gamut=Gamut.P3)
    sent = studio.rendered(source, wide)
    assert studio.opened(sent).info["icc_profile"]
    assert studio.difference(studio.pixels(sent), QUARTERS) < 2


def test_the_pixels_of_all_frames_count() -> None:
    source = bytearray(apng(*[(WHOLE, RED, NONE, SOURCE)] * 20))
    struct.pack_into(">II", source, 16, 4000, 4000)
    answer = studio.refused_or_known(bytes(source))
    assert isinstance(answer, JobFailure)
    assert answer.kind == "too_large"
    assert "pixels in all pages" in answer.detail
