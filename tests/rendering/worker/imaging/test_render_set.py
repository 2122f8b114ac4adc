"""Several renditions from one decode, as frames in one stream."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from proxy.domain.formats import (
    SNIFF_BYTES,
    EncoderProfile,
    EncodingStage,
    Format,
    QualitySearch,
    sniff,
)
from proxy.domain.geometry import Geometry, SizeSpec
from proxy.domain.worker_protocol import (
    FRAME_LENGTH,
    JobFailure,
    RenderOutput,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
)
from proxy.rendering.worker.__main__ import run
from proxy.rendering.worker.imaging.render import render_set
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo

EXACT = EncoderProfile(Format.PNG, (("compression", 1),))
TOO_WIDE = Geometry(16384, 2, 16384, 2)
"""libwebp holds 16,383 pixels a side."""
THUMBNAIL_TOLERANCE = 1.5
"""Mean difference in levels of 255 between a size from shared pixels and one decoded for itself.

It is the decoder's shrinking of a JPEG that differs most, and that is the coarser one: against all
pixels of the source the shared ones are within `EXACT_TOLERANCE`.
"""
EXACT_TOLERANCE = 0.6


def output(
    source: studio.Source, box: SizeSpec, fmt: Format | EncoderProfile = EXACT, **options: object
) -> RenderOutput:
    """One output as the server would order it."""
    profile = fmt if isinstance(fmt, EncoderProfile) else studio.PROFILES[fmt]
    return replace(RenderOutput(studio.geometry(source, box), profile), **options)  # type: ignore[arg-type]


def framed(*outputs: RenderOutput) -> RenditionSet:
    """A set whose outputs come as frames."""
    return RenditionSet(studio.LIMITS, outputs, framed=True)


def attempted(
    source: studio.Source, *outputs: RenderOutput, notice: str | None = None
) -> tuple[RenditionSetResult | JobFailure, list[bytes]]:
    """What a set says, and its frames."""
    job = RenditionSet(studio.LIMITS, outputs, notice, framed=True)
    with studio.descriptor(source) as opened, studio.descriptor(b"") as target:
        result = render_set(job, opened, target)
        return result, split(os.pread(target, os.fstat(target).st_size, 0))


def split(stream: bytes) -> list[bytes]:
    """The frames of a stream that holds nothing else."""
    frames, at = [], 0
    while at < len(stream):
        (length,) = FRAME_LENGTH.unpack_from(stream, at)
        at += FRAME_LENGTH.size
        frames.append(stream[at : at + length])
        assert len(frames[-1]) == length
        at += length
    return frames


def made(source: studio.Source, *outputs: RenderOutput) -> list[bytes]:
    """The frames of a set of which nothing fails."""
    result, frames = attempted(source, *outputs)
    assert isinstance(result, RenditionSetResult), result
    assert all(isinstance(one, RenderResult) for one in result.results), result
    return frames


def test_frames_come_in_the_order_of_the_outputs() -> None:
    source = photo("kodak-23.png")
    wanted = [(60, Format.AVIF), (200, Format.WEBP), (120, Format.JPEG), (200, Format.PNG)]
    frames = made(
        source, *(output(source, studio.contain(side, side), fmt) for side, fmt in wanted)
    )
    assert [sniff(frame[:SNIFF_BYTES]) for frame in frames] == [fmt for _, fmt in wanted]
    assert [studio.opened(frame).width for frame in frames] == [side for side, _ in wanted]


def based(source: studio.Source, box: SizeSpec, base: SizeSpec) -> RenderOutput:
    """An output in a box that is made of the pixels in another."""
    size = studio.geometry(source, base)
    return output(source, box, base=(size.scaled_width, size.scaled_height))


@pytest.mark.parametrize("name", ["photo-6mp.jpg", "kodak-13.png", "drawing-alpha.png"])
@pytest.mark.parametrize("box", [studio.cover(640, 400), studio.contain(100, 100)])
def test_without_a_base_it_is_what_a_render_of_its_own_gives(name: str, box: SizeSpec) -> None:
    frames = made(photo(name), output(photo(name), box), output(photo(name), studio.WHOLE))
    alone = studio.rendered(photo(name), EXACT, box=box)
    assert frames[0] == alone


@pytest.mark.parametrize("name", ["photo-6mp.jpg", "kodak-05.png"])
def test_with_a_base_it_is_the_same_alone_and_among_others(name: str) -> None:
    base = studio.contain(700, 700)
    small = based(photo(name), studio.contain(150, 150), base)
    other = based(photo(name), studio.cover(200, 100), base)
    (alone,) = made(photo(name), small)
    among = made(photo(name), output(photo(name), base), other, small)
    assert among[2] == alone
    assert alone != made(photo(name), replace(small, base=None))[0]


@pytest.mark.parametrize("name", ["photo-6mp.jpg", "kodak-05.png", "flowers.jpg"])
@pytest.mark.parametrize("side", [300, 150, 80])
def test_a_thumbnail_from_shared_pixels_is_the_one_rendered_directly(name: str, side: int) -> None:
    box = studio.contain(side, side)
    (shared,) = made(photo(name), based(photo(name), box, studio.contain(700, 700)))
    alone = studio.rendered(photo(name), EXACT, box=box)
    assert studio.difference(studio.pixels(shared), studio.pixels(alone)) < THUMBNAIL_TOLERANCE


@pytest.mark.parametrize(("name", "side"), [("photo-6mp.jpg", 300), ("cmyk.jpg", 80)])
def test_shared_pixels_are_near_to_those_of_the_whole_source(name: str, side: int) -> None:
    box = studio.contain(side, side)
    every_pixel = studio.rendered(studio.rendered(photo(name), EXACT), EXACT, box=box)
    (shared,) = made(photo(name), based(photo(name), box, studio.contain(1200, 1200)))
    gap = studio.difference(studio.pixels(shared), studio.pixels(every_pixel))
    assert gap < EXACT_TOLERANCE


@pytest.mark.parametrize("swapped", [False, True])
def test_a_rival_goes_out_where_it_is_smaller(swapped: bool) -> None:  # noqa: FBT001
    source, box = photo("kodak-23.png"), studio.contain(200, 200)
    webp, png = (output(source, box, fmt) for fmt in (Format.WEBP, Format.PNG))
    first, second = (png, webp) if swapped else (webp, png)
    alternative = EncodingStage(second.profile)
    alone = made(source, webp)[0]
    assert made(source, replace(first, alternative=alternative)) == [alone]


def test_an_output_that_fails_is_an_empty_frame_among_the_others() -> None:
    source = photo("kodak-23.png")
    good = output(source, studio.contain(64, 64), Format.WEBP)
    bad = replace(good, geometry=TOO_WIDE)
    result, frames = attempted(source, good, bad, good)
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
    bad = replace(output(source, studio.contain(64, 64), Format.WEBP), geometry=TOO_WIDE)
    result, frames = attempted(source, bad)
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"
    assert frames == []


def test_a_source_that_cannot_be_opened_is_one_failure_and_no_frames() -> None:
    good = RenderOutput(Geometry(10, 10, 10, 10), studio.PROFILES[Format.JPEG])
    result, frames = attempted(b"nonsense", good, good)
    assert isinstance(result, JobFailure)
    assert result.kind == "unsupported"
    assert frames == []


def test_a_worker_takes_a_set_as_an_order() -> None:
    source = photo("kodak-23.png")
    job = framed(output(source, studio.contain(50, 50), Format.JPEG))
    with studio.descriptor(source) as opened, studio.descriptor(b"") as target:
        result = run(job, opened, target)
        frames = split(os.pread(target, os.fstat(target).st_size, 0))
    assert isinstance(result, RenditionSetResult)
    assert studio.opened(frames[0]).size == (50, 33)


def test_a_set_of_nothing_is_an_empty_result() -> None:
    assert attempted(photo("kodak-23.png")) == (RenditionSetResult(()), [])


def test_a_closed_target_is_a_failure_of_the_whole() -> None:
    source = photo("kodak-23.png")
    job = framed(output(source, studio.contain(300, 300)))
    reader, writer = os.pipe()
    os.close(reader)
    with studio.descriptor(source) as opened:
        result = render_set(job, opened, writer)
    os.close(writer)
    assert isinstance(result, JobFailure)
    assert result.kind == "fault"


def test_an_animation_moves_beside_stills_of_its_first_frame() -> None:
    source = photo("animated.webp")
    box = studio.contain(40, 40)
    moving, still = made(
        source,
        output(source, box, Format.WEBP, animated=True),
        output(source, box, Format.JPEG, animated=True),
    )
    assert getattr(studio.opened(moving), "n_frames", 1) > 1
    assert getattr(studio.opened(still), "n_frames", 1) == 1


def test_each_output_may_search_and_lose_its_background() -> None:
    source = photo("kodak-23.png")
    box = studio.contain(200, 200)
    search = QualitySearch(70, 30, 95)
    result, frames = attempted(
        source,
        output(source, box, Format.JPEG, search=search),
        output(source, box, Format.WEBP, remove_background=True),
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
    job = framed(output(source, studio.WHOLE), output(source, studio.WHOLE))
    reader, writer = os.pipe()
    chunks: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 1 << 16):
            chunks.append(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    with studio.descriptor(source) as opened:
        assert isinstance(render_set(job, opened, writer), RenditionSetResult)
    os.close(writer)
    thread.join()
    os.close(reader)
    first, second = split(b"".join(chunks))
    assert first == second
