"""The outputs of a set: geometry, frames, streaming and failures."""

from __future__ import annotations

import io
import os
import select
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, ImageDraw, ImageOps

from proxy.domain.formats import SNIFF_BYTES, Format, sniff
from proxy.domain.variant import EncoderProfile, EncodingStage, Geometry, QualitySearch, SizeSpec
from proxy.domain.worker_protocol import (
    JobFailure,
    RenderOutput,
    RenderResult,
    RenditionSetResult,
)
from proxy.rendering.worker.imaging.load import open_source
from proxy.rendering.worker.imaging.render import DecodeCache, crop
from tests.rendering.worker.imaging import studio
from tests.support.descriptors import open_descriptors
from tests.support.memory_files import memory_file
from tests.support.photos import photo

TOO_WIDE = Geometry(16384, 2, 16384, 2)
"""libwebp holds 16,383 pixels a side."""


def test_frames_come_in_the_order_of_the_outputs() -> None:
    source = photo("kodak-23.png")
    wanted = [(60, Format.AVIF), (200, Format.WEBP), (120, Format.JPEG), (200, Format.PNG)]
    frames = studio.made(
        source, *(studio.output(source, studio.contain(side, side), fmt) for side, fmt in wanted)
    )
    assert [sniff(frame[:SNIFF_BYTES]) for frame in frames] == [fmt for _, fmt in wanted]
    assert [studio.opened(frame).width for frame in frames] == [side for side, _ in wanted]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_smaller_of_two_encodings_is_used(swapped: bool) -> None:  # noqa: FBT001
    source, box = photo("kodak-23.png"), studio.contain(200, 200)
    webp, png = (studio.output(source, box, fmt) for fmt in (Format.WEBP, Format.PNG))
    first, second = (png, webp) if swapped else (webp, png)
    alternative = EncodingStage(second.profile)
    alone = studio.made(source, webp)[0]
    assert studio.made(source, replace(first, alternative=alternative)) == [alone]


def test_an_output_that_fails_is_an_empty_frame_among_the_others() -> None:
    source = photo("kodak-23.png")
    good = studio.output(source, studio.contain(64, 64), Format.WEBP)
    bad = replace(good, geometry=TOO_WIDE)
    result, frames = studio.attempted(source, good, bad, good)
    assert isinstance(result, RenditionSetResult)
    first, failed, last = result.results
    assert isinstance(failed, JobFailure)
    assert failed.kind == "fault"
    assert isinstance(first, RenderResult)
    assert isinstance(last, RenderResult)
    assert frames[1] == b""
    assert frames[0] == frames[2] != b""


def test_the_failure_of_an_only_output_is_that_of_the_job() -> None:
    source = photo("kodak-23.png")
    bad = replace(studio.output(source, studio.contain(64, 64), Format.WEBP), geometry=TOO_WIDE)
    result, frames = studio.attempted(source, bad)
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"
    assert frames == []


def test_a_source_that_cannot_be_opened_is_one_failure_and_no_frames() -> None:
    good = RenderOutput(Geometry(10, 10, 10, 10), studio.PROFILES[Format.JPEG])
    result, frames = studio.attempted(b"nonsense", good, good)
    assert isinstance(result, JobFailure)
    assert result.kind == "unsupported"
    assert frames == []


def test_a_set_of_nothing_is_an_empty_result() -> None:
    assert studio.attempted(photo("kodak-23.png")) == (RenditionSetResult(()), [])


def test_a_closed_target_is_a_failure_of_the_whole() -> None:
    source = photo("kodak-23.png")
    job = studio.framed(studio.output(source, studio.contain(300, 300)))
    reader, writer = os.pipe()
    os.close(reader)
    with memory_file(source) as opened:
        result = studio.answer(job, opened, writer)
    os.close(writer)
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"


def test_an_animation_moves_beside_stills_of_its_first_frame() -> None:
    source = photo("animated.webp")
    box = studio.contain(40, 40)
    moving, still = studio.made(
        source,
        studio.output(source, box, Format.WEBP, animated=True),
        studio.output(source, box, Format.JPEG, animated=True),
    )
    assert getattr(studio.opened(moving), "n_frames", 1) > 1
    assert getattr(studio.opened(still), "n_frames", 1) == 1


def test_each_output_may_search_and_lose_its_background() -> None:
    source = photo("kodak-23.png")
    box = studio.contain(200, 200)
    search = QualitySearch(70, 30, 95)
    result, frames = studio.attempted(
        source,
        studio.output(source, box, Format.JPEG, search=search),
        studio.output(source, box, Format.WEBP, remove_background=True),
        notice="(c) me",
    )
    assert isinstance(result, RenditionSetResult)
    first, second = result.results
    assert isinstance(first, RenderResult)
    assert isinstance(second, RenderResult)
    assert first.quality is not None
    assert second.quality is None
    assert all(studio.opened(frame).getexif()[0x8298] == "(c) me" for frame in frames)


def test_frames_go_through_a_pipe_that_is_smaller_than_they_are() -> None:
    source = photo("kodak-23.png")
    job = studio.framed(studio.output(source, studio.WHOLE), studio.output(source, studio.WHOLE))
    reader, writer = os.pipe()
    chunks: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 1 << 16):
            chunks.append(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    with memory_file(source) as opened:
        assert isinstance(studio.answer(job, opened, writer), RenditionSetResult)
    os.close(writer)
    thread.join()
    os.close(reader)
    first, second = studio.split(b"".join(chunks))
    assert first == second


def ends(reader: int) -> bool:
    """Whether a pipe gives its end now; what is in it is read and dropped."""
    while select.select([reader], [], [], 0)[0]:
        if not os.read(reader, 1 << 20):
            return True
    return False


@pytest.mark.parametrize("fmt", list(Format))
@pytest.mark.parametrize(
    "source", [studio.saved(Image.new("RGB", (50, 50), "navy")), b"\xff\xd8\xff"]
)
def test_the_reader_sees_the_end_once_the_caller_closes_its_own(source: bytes, fmt: Format) -> None:
    job = studio.job_of(Geometry(20, 20, 20, 20), studio.PROFILES[fmt], notice="me")
    reader, writer = os.pipe()
    with memory_file(source) as opened:
        before = open_descriptors()
        studio.render(job, opened, writer)
        assert open_descriptors() <= before
    os.close(writer)
    assert ends(reader)
    os.close(reader)


@pytest.mark.parametrize("progressive", [False, True])
def test_only_a_baseline_jpeg_leaves_the_encoder_while_the_source_is_decoded(
    *, progressive: bool
) -> None:
    """Its first byte comes after a fraction of the processor time."""
    plan = studio.geometry(photo("photo-6mp.jpg"), studio.contain(2400, 2400))
    profile = EncoderProfile(Format.JPEG, (("Q", 90), ("interlace", progressive)))
    reader, writer = os.pipe()
    with memory_file(photo("photo-6mp.jpg")) as source:
        started = time.process_time()
        job = studio.job_of(plan, profile)
        thread = threading.Thread(target=studio.render, args=(job, source, writer), daemon=True)
        thread.start()
        assert os.read(reader, 1000).startswith(b"\xff\xd8")
        first_s = time.process_time() - started
        while thread.is_alive():
            if select.select([reader], [], [], 0.1)[0]:
                os.read(reader, 1 << 20)
        total_s = time.process_time() - started
    os.close(writer)
    os.close(reader)
    assert (first_s < 0.6 * total_s) == (not progressive)


def upright(name: str) -> Image.Image:
    """A photograph as Pillow has it: turned as EXIF says, and in sRGB."""
    picture = Image.open(photo(name))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    turned = ImageOps.exif_transpose(picture)
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(turned, profile, srgb, ImageCms.Intent(1))
    assert converted is not None
    return converted


def quadrants(width: int, height: int) -> Image.Image:
    """Red, green, blue and white quarters."""
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill=(255, 0, 0))
    draw.rectangle((width // 2, 0, width - 1, height // 2 - 1), fill=(0, 255, 0))
    draw.rectangle((0, height // 2, width // 2 - 1, height - 1), fill=(0, 0, 255))
    return picture


@pytest.mark.parametrize("name", ["exif-orientation-5.jpg", "exif-orientation-6.jpg"])
def test_exif_orientation_is_applied(name: str) -> None:
    ours = studio.pixels(studio.rendered(photo(name)))
    assert studio.difference(ours, studio.pixels(upright(name))) < 2


@pytest.mark.parametrize("name", ["exif-orientation-5.jpg", "exif-orientation-6.jpg"])
def test_a_rotated_source_keeps_its_shape_when_it_shrinks(name: str) -> None:
    box = studio.contain(200, 200)
    ours = studio.pixels(studio.rendered(photo(name), box=box))
    whole = upright(name)
    plan = studio.geometry(photo(name), box)
    theirs = whole.resize((plan.width, plan.height), Image.Resampling.LANCZOS)
    assert studio.difference(ours, studio.pixels(theirs)) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = studio.saved(quadrants(64, 40), exif=exif)
    theirs = ImageOps.exif_transpose(studio.opened(source))
    assert np.array_equal(studio.pixels(studio.rendered(source)), studio.pixels(theirs))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_cover_crop_cuts_the_planned_box_out_of_the_scaled_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = studio.saved(Image.open(photo("kodak-23.png")), exif=exif)
    plan = studio.geometry(source, studio.cover(150, 90))
    ours = studio.pixels(studio.rendered(source, plan=plan))
    turned = ImageOps.exif_transpose(studio.opened(source))
    scaled = turned.resize((plan.scaled_width, plan.scaled_height), Image.Resampling.LANCZOS)
    box = (plan.left, plan.top, plan.left + plan.width, plan.top + plan.height)
    assert ours.shape == (90, 150, 3)
    assert studio.difference(ours, studio.pixels(scaled.crop(box))) < 2


def test_shrinking_while_a_jpeg_loads_looks_like_lanczos() -> None:
    box = studio.contain(300, 300)
    source = photo("photo-6mp.jpg")
    plan = studio.geometry(source, box)
    ours = studio.pixels(studio.rendered(source, box=box))
    theirs = Image.open(source).resize((plan.width, plan.height), Image.Resampling.LANCZOS)
    assert studio.difference(ours, studio.pixels(theirs)) < 2


@pytest.mark.parametrize("fmt", list(Format))
@pytest.mark.parametrize("name", ["photo-6mp.jpg", "photo.webp", "photo.avif", "scan.tiff"])
def test_the_size_is_the_planned_one_to_the_pixel(name: str, fmt: Format) -> None:
    plan = studio.geometry(photo(name), studio.cover(123, 45))
    result, encoded = studio.attempt(photo(name), fmt, plan=plan)
    assert isinstance(result, RenderResult)
    assert (result.width, result.height) == studio.opened(encoded).size == (123, 45)


def test_the_offset_of_the_source_descriptor_does_not_matter() -> None:
    source = studio.saved(quadrants(20, 20))
    job = studio.job_of(studio.geometry(source), studio.PROFILES[Format.PNG])
    with memory_file(source) as descriptor:
        for _ in range(2):
            with memory_file(b"") as target:
                assert isinstance(studio.render(job, descriptor, target), RenderResult)


THUMBNAIL_TOLERANCE = 1.5
"""Mean difference in levels of 255 between a size from shared pixels and one decoded for itself.

It is the decoder's shrinking of a JPEG that differs most, and that is the coarser one: against all
pixels of the source the shared ones are within `EXACT_TOLERANCE`.
"""
EXACT_TOLERANCE = 0.6


def based(source: studio.Source, box: SizeSpec, base: SizeSpec) -> RenderOutput:
    """An output in a box that is made of the pixels in another."""
    size = studio.geometry(source, base)
    return studio.output(source, box, base=(size.scaled_width, size.scaled_height))


@pytest.mark.parametrize("name", ["photo-6mp.jpg", "kodak-13.png", "drawing-alpha.png"])
@pytest.mark.parametrize("box", [studio.cover(640, 400), studio.contain(100, 100)])
def test_an_output_without_a_base_equals_a_render_of_its_own(name: str, box: SizeSpec) -> None:
    frames = studio.made(
        photo(name), studio.output(photo(name), box), studio.output(photo(name), studio.WHOLE)
    )
    alone = studio.rendered(photo(name), studio.LOSSLESS, box=box)
    assert frames[0] == alone


@pytest.mark.parametrize("name", ["photo-6mp.jpg", "kodak-05.png"])
def test_an_output_with_a_base_is_the_same_alone_and_in_a_set(name: str) -> None:
    base = studio.contain(700, 700)
    small = based(photo(name), studio.contain(150, 150), base)
    other = based(photo(name), studio.cover(200, 100), base)
    (alone,) = studio.made(photo(name), small)
    among = studio.made(photo(name), studio.output(photo(name), base), other, small)
    assert among[2] == alone
    assert alone != studio.made(photo(name), replace(small, base=None))[0]


@pytest.mark.parametrize("name", ["photo-6mp.jpg", "kodak-05.png", "flowers.jpg"])
@pytest.mark.parametrize("side", [300, 150, 80])
def test_a_thumbnail_from_shared_pixels_is_close_to_the_one_rendered_directly(
    name: str, side: int
) -> None:
    box = studio.contain(side, side)
    (shared,) = studio.made(photo(name), based(photo(name), box, studio.contain(700, 700)))
    alone = studio.rendered(photo(name), studio.LOSSLESS, box=box)
    assert studio.difference(studio.pixels(shared), studio.pixels(alone)) < THUMBNAIL_TOLERANCE


@pytest.mark.parametrize(("name", "side"), [("photo-6mp.jpg", 300), ("cmyk.jpg", 80)])
def test_shared_pixels_are_near_to_those_of_the_whole_source(name: str, side: int) -> None:
    box = studio.contain(side, side)
    every_pixel = studio.rendered(
        studio.rendered(photo(name), studio.LOSSLESS), studio.LOSSLESS, box=box
    )
    (shared,) = studio.made(photo(name), based(photo(name), box, studio.contain(1200, 1200)))
    gap = studio.difference(studio.pixels(shared), studio.pixels(every_pixel))
    assert gap < EXACT_TOLERANCE


def test_each_size_is_decoded_once_and_its_cost_is_known_afterwards() -> None:
    plan = studio.geometry(photo("kodak-23.png"), studio.contain(100, 100))
    with memory_file(photo("kodak-23.png")) as source:
        cache = DecodeCache(open_source(source, studio.LIMITS), shared=True)
        first, before_s = cache.page(plan, base=None)
        second, after_s = cache.page(plan, base=None)
    assert first is second
    assert before_s == 0 < after_s


def test_pages_that_are_not_shared_are_decoded_when_they_are_read() -> None:
    plan = studio.geometry(photo("kodak-23.png"), studio.contain(100, 100))
    with memory_file(photo("kodak-23.png")) as source:
        cache = DecodeCache(open_source(source, studio.LIMITS), shared=False)
        first, _ = cache.page(plan, base=None)
        second, _ = cache.page(plan, base=None)
    assert first is not second


def test_a_page_is_cropped_once() -> None:
    page = pyvips.Image.black(30, 20)
    cropped = crop(page, geometry=Geometry(10, 20, 30, 20, left=5))
    assert (cropped.width, cropped.height) == (10, 20)
    assert crop(cropped, geometry=Geometry(10, 20, 30, 20, left=5)) is cropped
