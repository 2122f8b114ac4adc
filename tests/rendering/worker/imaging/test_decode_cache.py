"""Outputs that share a base are scaled from the pixels of one decode."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pyvips

from proxy.domain.variant import Geometry, SizeSpec
from proxy.domain.worker_protocol import (
    RenderOutput,
)
from proxy.rendering.worker.imaging.decode_cache import DecodeCache, crop
from proxy.rendering.worker.imaging.load import open_source
from tests.rendering.worker.imaging import studio
from tests.support.photos import photo

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
    with studio.descriptor(photo("kodak-23.png")) as source:
        cache = DecodeCache(open_source(source, studio.LIMITS), shared=True)
        first, before_s = cache.page(plan, base=None)
        second, after_s = cache.page(plan, base=None)
    assert first is second
    assert before_s == 0 < after_s


def test_pages_that_are_not_shared_are_decoded_when_they_are_read() -> None:
    plan = studio.geometry(photo("kodak-23.png"), studio.contain(100, 100))
    with studio.descriptor(photo("kodak-23.png")) as source:
        cache = DecodeCache(open_source(source, studio.LIMITS), shared=False)
        first, _ = cache.page(plan, base=None)
        second, _ = cache.page(plan, base=None)
    assert first is not second


def test_a_page_is_cropped_once() -> None:
    page = pyvips.Image.black(30, 20)
    cropped = crop(page, geometry=Geometry(10, 20, 30, 20, left=5))
    assert (cropped.width, cropped.height) == (10, 20)
    assert crop(cropped, geometry=Geometry(10, 20, 30, 20, left=5)) is cropped
