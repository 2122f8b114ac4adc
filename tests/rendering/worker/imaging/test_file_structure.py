"""Files that libvips refuses or crops, compared with what Pillow makes of them."""

from __future__ import annotations

import io
import mmap
import os
import struct
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageDraw

from proxy.domain.formats import Format
from proxy.domain.media import ProbeResult
from proxy.domain.variant import SizeSpec
from proxy.domain.worker_protocol import JobFailure, RenderResult
from proxy.rendering.worker.imaging.file_structure import (
    _blank,
    colour_table,
    gif_frames,
    repaired,
)
from proxy.rendering.worker.imaging.libvips import MAX_BLOCKS
from tests.rendering.worker.imaging import crafted, studio
from tests.support.memory_files import memory_file
from tests.support.photos import case

SCREENS = [(2000, 4000), (640, 480), (800, 600), (1600, 1200), (100, 120), (3000, 90)]
"""Larger than 2048 pixels, of the sizes that monitors had, and others."""


def photograph() -> Image.Image:
    """A picture of 320 x 240 pixels with shades and a texture."""
    rows, columns = np.mgrid[0:240, 0:320]
    waves = [128 + 90 * np.sin(rows / 31 + at) * np.cos(columns / (17 + 9 * at)) for at in range(3)]
    noise = np.random.default_rng(1).normal(0, 9, (240, 320, 3))
    return Image.fromarray((np.dstack(waves) + noise).clip(0, 255).astype(np.uint8))


def saved(pictures: Sequence[Image.Image], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    rest = {"save_all": True, "append_images": [*pictures[1:]], "duration": 80}
    pictures[0].save(buffer, kind, **(rest if len(pictures) > 1 else {}), **options)
    return buffer.getvalue()


def moving(count: int = 5, mode: str = "RGB") -> list[Image.Image]:
    """Frames with a square that moves over a photograph."""
    pictures = []
    for at in range(count):
        picture = photograph().convert(mode)
        ImageDraw.Draw(picture).rectangle((at * 40, at * 30, at * 40 + 60, at * 30 + 60), "navy")
        if mode == "RGBA":
            picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        pictures.append(picture)
    return pictures


def gif(screen: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> bytes:
    """A GIF with opaque frames of 21 x 21 pixels at these places."""
    pictures = []
    for colour, _ in zip(("red", "lime", "blue"), offsets, strict=False):
        picture = Image.new("RGB", (21, 21), colour)
        ImageDraw.Draw(picture).line((0, 0, 20, 20), "white")
        pictures.append(picture.quantize(4))
    made = bytearray(saved(pictures, "GIF", loop=0, optimize=False))
    made[6:10] = struct.pack("<HH", *screen)
    with (
        memory_file(bytes(made)) as opened,
        mmap.mmap(opened, 0, prot=mmap.PROT_READ) as file,
    ):
        for at, offset in zip(list(gif_frames(file)), offsets, strict=True):
            made[at + 1 : at + 5] = struct.pack("<HH", *offset)
    return bytes(made)


def rendered(source: bytes, fmt: Format = Format.PNG, **options: object) -> Image.Image:
    result, encoded = studio.attempt(source, fmt, **options)  # type: ignore[arg-type]
    assert isinstance(result, RenderResult), result
    return Image.open(io.BytesIO(encoded))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGBA")).astype(int)


def test_the_animated_avif_of_the_cases_is_shown() -> None:
    source = case("N08-anim.avif").read_bytes()
    assert studio.looked_at(source, strict=True).source_type == "avif"
    difference = np.abs(pixels(rendered(source)) - pixels(Image.open(io.BytesIO(source))))
    assert difference.mean() < 2


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.95, 0.999])
def test_of_a_truncated_webp_what_can_be_decoded_is_shown(share: float, *, alpha: bool) -> None:
    picture = moving(1, "RGBA" if alpha else "RGB")[0]
    whole = saved([picture], "WEBP", quality=80)
    cut = whole[: int(len(whole) * share)]
    shown, intact = rendered(cut), Image.open(io.BytesIO(whole))
    assert shown.size == intact.size
    rows = int(240 * (share - 0.35))
    difference = np.abs(pixels(shown) - pixels(intact))[:rows, :, :3]
    assert difference.mean() < 1, "the rows that are there are those of the whole image"
    refused = studio.refused_or_known(cut, strict=True)
    assert isinstance(refused, JobFailure)
    assert f"missing bytes at its end: {len(whole) - len(cut):,}" in refused.detail


def test_half_a_webp_of_the_cases_is_shown_in_every_format() -> None:
    source = case("J19-truncated.webp").read_bytes()
    for fmt in (Format.JPEG, Format.WEBP, Format.AVIF, Format.PNG):
        assert rendered(source, fmt).size == (384, 256)
    assert isinstance(studio.refused_or_known(source, strict=True), JobFailure)


@pytest.mark.slow
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_truncated_animation_ends_with_its_last_complete_frame(
    mode: str, *, lossless: bool
) -> None:
    whole = saved(moving(5, mode), "WEBP", lossless=lossless, quality=80)
    starts = [at for at in range(len(whole)) if whole[at : at + 4] == b"ANMF"]
    for kept, at in enumerate(starts[1:], start=1):
        # Within a frame, within its header, and between two.
        for cut in (whole[: at + 30], whole[: at + 5], whole[:at]):
            facts = studio.looked_at(cut)
            assert facts.pages == kept
            assert isinstance(studio.refused_or_known(cut, strict=True), JobFailure)
            shown = rendered(cut, Format.WEBP, animated=True)
            assert getattr(shown, "n_frames", 1) == kept


def test_a_truncated_first_frame_is_shown_as_far_as_it_goes() -> None:
    whole = saved(moving(3), "WEBP", quality=80)
    second = whole.index(b"ANMF", whole.index(b"ANMF") + 4)
    shown = rendered(whole[: second - 500])
    difference = np.abs(pixels(shown) - pixels(Image.open(io.BytesIO(whole))))[:120]
    assert difference.mean() < 2


def test_a_webp_that_lacks_only_its_metadata_is_accepted() -> None:
    whole = saved(moving(1), "WEBP", exif=b"Exif\0\0" + bytes(500))
    cut = whole[: whole.index(b"EXIF") + 100]
    assert isinstance(studio.refused_or_known(cut, strict=True), ProbeResult)


def test_a_webp_that_claims_gigabytes_costs_no_memory() -> None:
    claimed = b"RIFF" + struct.pack("<I", 0xFFFFFF00) + b"WEBPVP8 " + struct.pack("<I", 0xFFFF0000)
    with memory_file(claimed + bytes(100)) as opened:
        assert repaired(opened, "webp", max_side=9, max_pixels=9) is None
    refused = studio.refused_or_known(claimed + bytes(100))
    assert isinstance(refused, JobFailure)
    assert "truncated" in refused.detail


@pytest.mark.parametrize(
    "source", [saved(moving(1), "WEBP"), saved(moving(2), "WEBP"), saved(moving(1), "AVIF")]
)
@pytest.mark.parametrize("extra", [b"", b"\0", bytes(1000)])
def test_a_complete_file_is_decoded_as_it_is(source: bytes, extra: bytes) -> None:
    kind = "avif" if source[4:8] == b"ftyp" else "webp"
    with memory_file(source + extra) as opened:
        assert repaired(opened, kind, max_side=9999, max_pixels=10**8) is None


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("offset", [(0, 0), (5, 7), (40, 60)])
def test_a_small_frame_is_shown_at_its_place_on_the_whole_screen(
    screen: tuple[int, int], offset: tuple[int, int]
) -> None:
    source = gif(screen, [offset])
    facts = studio.looked_at(source)
    assert (facts.width, facts.height, facts.pages) == (*screen, 1)
    assert facts.has_alpha, "browsers show the page around the frame"
    assert studio.refused_or_known(source, strict=True) == facts
    shown, left, top = pixels(rendered(source)), *offset
    assert shown.shape[1::-1] == screen
    frame = shown[top : top + 21, left : left + 21]
    expected = pixels(Image.open(io.BytesIO(source)))[top : top + 21, left : left + 21]
    assert np.array_equal(frame, expected)
    assert (shown[..., 3] > 0).sum() == 21 * 21


@pytest.mark.parametrize("screen", SCREENS)
def test_every_frame_of_an_animation_is_shown_at_its_place(screen: tuple[int, int]) -> None:
    offsets = [(3, 4), (30, 8), (60, 60)]
    source = gif(screen, offsets)
    facts = studio.looked_at(source, strict=True)
    assert (facts.width, facts.height, facts.pages) == (*screen, 3)
    for fmt in (Format.WEBP, Format.GIF):
        shown = rendered(source, fmt, animated=True, box=SizeSpec("box", 2000, 2000))
        assert shown.n_frames == 3  # type: ignore[attr-defined]
        scale = shown.width / screen[0]
        for at, (left, top) in enumerate(offsets):
            shown.seek(at)
            shown.load()
            assert shown.info["duration"] == 80
            x, y = round((left + 4) * scale), round((top + 14) * scale)
            colour = pixels(shown)[min(y, shown.height - 1), x]
            assert colour[3] > 0
            assert int(np.argmax(colour[:3])) == at, "red, then green, then blue"


def test_the_frames_are_shown_if_the_screen_exceeds_a_limit() -> None:
    for screen in ((20_000, 30), (16_000, 16_000), (65_535, 65_535)):
        facts = studio.looked_at(gif(screen, [(0, 0)]), strict=True)
        assert (facts.width, facts.height) == (21, 21)
    # Together, the pages of this animation would exceed the limit of animations.
    facts = studio.looked_at(gif((8000, 8000), [(0, 0), (0, 0)]), strict=True)
    assert (facts.width, facts.height) == (21, 21)


def test_a_frame_that_covers_its_screen_or_more_needs_no_repair() -> None:
    for screen in ((21, 21), (10, 10), (0, 0)):
        with memory_file(gif(screen, [(0, 0)])) as opened:
            assert repaired(opened, "gif", max_side=9999, max_pixels=10**8) is None
        facts = studio.looked_at(gif(screen, [(0, 0)]))
        assert (facts.width, facts.height) == (21, 21)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_gif_with_a_small_frame_is_shown(share: float) -> None:
    whole = gif((2000, 4000), [(5, 5), (9, 9)])
    facts = studio.looked_at(whole[: int(len(whole) * share)])
    assert (facts.width, facts.height) == (2000, 4000)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 3), (100, 100), (3000, 4000)])
def test_the_blank_frame_is_complete_and_transparent(size: tuple[int, int]) -> None:
    image = struct.pack("<B4HB", 0x2C, 0, 0, *size, 0x81) + bytes(12)
    screen = b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0) + b"\x21\xf9\x04\x01\0\0\0\0"
    began = time.process_time()
    source = screen + image + _blank(size[0] * size[1]) + b";"
    assert time.process_time() - began < 1
    found = pyvips.Image.new_from_buffer(source, "", fail_on="warning")
    assert (found.width, found.height, found.max()) == (*size, 0)
    Image.open(io.BytesIO(source)).load()
    assert len(source) < 12_000


def test_the_file_itself_is_not_changed() -> None:
    source = gif((2000, 4000), [(0, 0)])
    with memory_file(source) as opened:
        assert repaired(opened, "gif", max_side=9999, max_pixels=10**8) is not None
        assert os.pread(opened, len(source) + 1, 0) == source


RED = {
    kind: studio.saved(Image.new("RGB", (8, 8), "red"), kind)
    for kind in ("GIF", "WEBP", "PNG", "JPEG")
}
MOVING_PNG = crafted.apng(2, 2, pages=2)
TABLE_END = 13 + colour_table(RED["GIF"][10])


def webp_of(blocks: bytes, *, missing: int = 0) -> bytes:
    body = RED["WEBP"][12:] + blocks
    return b"RIFF" + struct.pack("<I", len(body) + 4 + missing) + b"WEBP" + body


WITH_BLOCKS: dict[str, Callable[[int], bytes]] = {
    "gif": lambda count: RED["GIF"][:-1] + b"\x21\xfe\0" * count + b";",
    "gif before the frame": lambda count: (
        RED["GIF"][:TABLE_END] + b"\x21\xfe\0" * count + RED["GIF"][TABLE_END:]
    ),
    "gif of parts": lambda count: RED["GIF"][:-1] + b"\x21\xfe" + b"\1a" * count + b"\0;",
    "webp": lambda count: webp_of(b"JUNK\0\0\0\0" * count),
    "webp that ends early": lambda count: webp_of(b"JUNK\0\0\0\0" * count, missing=40),
    "png": lambda count: RED["PNG"][:-12] + crafted._chunk(b"teSt", b"") * count + RED["PNG"][-12:],
    "png of frames": lambda count: (
        MOVING_PNG[:-12] + crafted._chunk(b"teSt", b"") * count + MOVING_PNG[-12:]
    ),
    "jpeg": lambda count: RED["JPEG"][:2] + b"\xff\xfe\0\2" * count + RED["JPEG"][2:],
}
"""Files of a few pixels with so many blocks without a content."""


@pytest.mark.parametrize("kind", WITH_BLOCKS)
def test_a_file_of_very_many_blocks_is_refused(kind: str) -> None:
    source = WITH_BLOCKS[kind](MAX_BLOCKS)
    began = time.process_time()
    failure = studio.refused_or_known(source, strict=True)
    assert time.process_time() - began < 2
    assert isinstance(failure, JobFailure)
    assert failure.kind == "too_large"
    assert failure.detail == "the source has more than 1,000,000 blocks of data"


@pytest.mark.parametrize("kind", ["gif", "gif of parts", "webp", "png", "jpeg"])
def test_many_blocks_are_read(kind: str) -> None:
    assert studio.looked_at(WITH_BLOCKS[kind](100_000), strict=True).width == 8
