"""Animations: every frame is kept, with its time, and none bleeds into the next."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image

from proxy.domain.formats import Format
from proxy.domain.geometry import Geometry
from proxy.domain.worker_protocol import RenderResult
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.crafted import gif_of
from tests.support.photos import photo

COLOURS = ((220, 20, 20), (20, 200, 40), (30, 40, 210), (240, 220, 30))


def coloured_frames(width: int, height: int, **options: object) -> bytes:
    """A GIF whose frames are each of one colour."""
    first, *rest = (Image.new("RGB", (width, height), colour) for colour in COLOURS)
    return studio.saved(first, "GIF", save_all=True, append_images=rest, **options)


def stills(colours: Iterable[tuple[int, int, int]]) -> list[bytes]:
    """A GIF of each colour."""
    return [studio.saved(Image.new("RGB", (40, 30), colour), "GIF") for colour in colours]


def durations(encoded: bytes) -> list[int]:
    """How long each frame is shown, in milliseconds."""
    picture = studio.opened(encoded)
    shown = []
    for frame in range(getattr(picture, "n_frames", 1)):
        picture.seek(frame)
        picture.load()
        shown.append(int(picture.info["duration"]))
    return shown


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
@pytest.mark.parametrize(("name", "count"), [("animated.gif", 9), ("animated.webp", 9)])
def test_frames_and_their_times_are_kept(name: str, count: int, fmt: Format) -> None:
    """Of the thirty frames of ``animated.gif`` nine differ from the one before."""
    source = photo(name)
    result, encoded = studio.attempt(source, fmt, box=studio.contain(40, 40), animated=True)
    assert isinstance(result, RenderResult)
    assert result.pages == count
    assert sum(durations(encoded)) == sum(durations(source.read_bytes()))


@pytest.mark.parametrize(("fmt", "loop"), [(Format.WEBP, 4), (Format.GIF, 3)])
def test_delays_and_loop_count_are_those_of_the_source(fmt: Format, loop: int) -> None:
    """A GIF counts the repetitions after the first showing, a WebP all of them."""
    source = coloured_frames(40, 30, duration=[50, 120, 200, 70], loop=3)
    encoded = studio.rendered(source, fmt, animated=True)
    assert durations(encoded) == [50, 120, 200, 70]
    assert studio.opened(encoded).info["loop"] == loop


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
def test_a_frame_that_comes_again_at_once_is_one_that_is_shown_longer(fmt: Format) -> None:
    red, green = stills(COLOURS[:2])
    source = gif_of([red, red, green, green, green, red], [50, 60, 70, 80, 90, 100])
    assert studio.looked_at(source).pages == 6
    result, encoded = studio.attempt(source, fmt, animated=True)
    assert isinstance(result, RenderResult)
    assert result.pages == 3
    assert durations(encoded) == [110, 240, 100]
    shown = [frame[15, 20].astype(int) for frame in studio.frames(encoded, "RGB")]
    for pixel, colour in zip(shown, (COLOURS[0], COLOURS[1], COLOURS[0]), strict=True):
        assert np.abs(pixel - colour).max() <= 8


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
@pytest.mark.parametrize("delay", [0, 10])
def test_delays_that_no_browser_keeps_to_are_what_browsers_make_of_them(
    delay: int, fmt: Format
) -> None:
    red, green = stills(COLOURS[:2])
    source = gif_of([red, red, red, green], [delay] * 3 + [20])
    assert durations(studio.rendered(source, fmt, animated=True)) == [300, 20]


def test_no_frame_is_shown_longer_than_a_gif_can_say() -> None:
    red, green = stills(COLOURS[:2])
    source = gif_of([red, red, red, green], [300_000, 300_000, 300_000, 100])
    assert durations(studio.rendered(source, Format.GIF, animated=True)) == [600_000, 300_000, 100]


def test_a_gif_of_too_many_pixels_has_fewer_frames_and_takes_as_long() -> None:
    """Of four frames of eight megapixels two are left; fewer there never are."""
    source = coloured_frames(4000, 2000, duration=[50, 120, 200, 70], loop=0)
    encoded = studio.rendered(source, Format.GIF, animated=True)
    assert durations(encoded) == [170, 270]
    shown = [frame[1000, 2000].astype(int) for frame in studio.frames(encoded, "RGB")]
    assert all(
        np.abs(pixel - colour).max() <= 8 for pixel, colour in zip(shown, COLOURS[::2], strict=True)
    )
    small = studio.rendered(source, Format.GIF, box=studio.contain(400, 400), animated=True)
    assert durations(small) == [50, 120, 200, 70]


@pytest.mark.parametrize("fmt", [Format.WEBP, Format.GIF])
def test_frames_keep_their_colour_up_to_the_edge_when_shrunk_and_cropped(fmt: Format) -> None:
    source = coloured_frames(160, 90, duration=100, loop=0)
    encoded = studio.rendered(source, fmt, box=studio.cover(30, 30), animated=True)
    shown = studio.frames(encoded, "RGB")
    assert len(shown) == len(COLOURS)
    for frame, colour in zip(shown, COLOURS, strict=True):
        assert frame.shape == (30, 30, 3)
        assert np.abs(frame.astype(int) - colour).max() <= 8


def test_a_cover_crop_takes_the_same_box_out_of_each_frame() -> None:
    first, second = Image.new("RGB", (120, 60), "white"), Image.new("RGB", (120, 60), "black")
    for frame, colour in ((first, "red"), (second, "blue")):
        frame.paste(colour, (60, 0, 120, 60))
    source = studio.saved(first, "GIF", save_all=True, append_images=[second], duration=100, loop=0)
    plan = Geometry(30, 30, 60, 30, left=20)
    encoded = studio.rendered(source, Format.GIF, plan=plan, animated=True)
    expected = (((255, 255, 255), (255, 0, 0)), ((0, 0, 0), (0, 0, 255)))
    for shown, (left, right) in zip(studio.frames(encoded, "RGB"), expected, strict=True):
        assert np.abs(shown[:, :8].astype(int) - left).max() <= 8
        assert np.abs(shown[:, 12:].astype(int) - right).max() <= 8


@pytest.mark.parametrize("fmt", list(Format))
def test_a_still_of_an_animation_is_its_first_frame(fmt: Format) -> None:
    source = coloured_frames(40, 30, duration=100, loop=0)
    result, encoded = studio.attempt(source, fmt)
    assert isinstance(result, RenderResult)
    assert result.pages == getattr(studio.opened(encoded), "n_frames", 1) == 1
    assert np.abs(studio.pixels(encoded)[15, 20].astype(int) - COLOURS[0]).max() <= 6


def test_an_order_for_an_animation_of_a_still_gives_a_still() -> None:
    source = studio.saved(Image.new("RGB", (20, 20), "teal"))
    result, _ = studio.attempt(source, Format.WEBP, animated=True)
    assert isinstance(result, RenderResult)
    assert result.pages == 1


def test_pages_of_a_tiff_are_not_frames() -> None:
    pages = [Image.new("RGB", (20, 20), colour) for colour in COLOURS]
    source = studio.saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert studio.looked_at(source).pages == 1
