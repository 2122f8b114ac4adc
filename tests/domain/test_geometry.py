"""Scaling and cropping of images into boxes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.formats import Format
from proxy.domain.geometry import (
    MAX_SIDE,
    Fit,
    Geometry,
    Gravity,
    SizeSpec,
    plan_geometry,
    shapes_of,
)
from proxy.domain.media import Focus, MediaFacts
from proxy.domain.query import DPRS, parse_boxes
from proxy.domain.variant import has_shape
from tests.support.requests import SIZES, facts, resolved

SIDES = st.integers(1, 16384)
BOX_SIDES = st.integers(1, MAX_SIDE)
FRACTIONS = st.floats(0, 1)
FACTS = st.builds(
    lambda width, height, focus: facts(width, height, focus=focus),
    SIDES,
    SIDES,
    st.none() | st.builds(Focus, FRACTIONS, FRACTIONS),
)
COVERS = st.builds(
    lambda width, height, dpr, gravity: SizeSpec("x", width, height, Fit.COVER, gravity).scaled(
        dpr
    ),
    BOX_SIDES,
    BOX_SIDES,
    st.sampled_from(list(DPRS.values())),
    st.sampled_from(Gravity),
)
CONTAINS = st.builds(
    lambda width, height, dpr: SizeSpec("x", width, height).scaled(dpr),
    BOX_SIDES,
    st.none() | BOX_SIDES,
    st.sampled_from(list(DPRS.values())),
)


@pytest.mark.parametrize(
    ("size", "width", "height", "expected"),
    [
        ("detail", 4000, 3000, (1200, 900)),
        ("detail", 3000, 4000, (900, 1200)),
        ("detail", 800, 600, (800, 600)),
        ("detail", 1200, 1200, (1200, 1200)),
        ("small", 4000, 3000, (480, 360)),
        ("small", 400, 9000, (400, 9000)),
        ("thumbnail", 4000, 3000, (300, 300)),
        ("thumbnail", 200, 150, (150, 150)),
        ("thumbnail", 300, 300, (300, 300)),
        ("header", 4000, 3000, (1600, 500)),
        ("header", 800, 600, (800, 250)),
        ("header", 1600, 100, (320, 100)),
    ],
)
def test_an_image_is_fitted_into_its_box_without_enlarging(
    size: str, width: int, height: int, expected: tuple[int, int]
) -> None:
    geometry = plan_geometry(SIZES[size], facts(width, height))
    assert (geometry.width, geometry.height) == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "height"), [(1, 16384), (16384, 1), (1, 1), (16384, 16384)])
def test_extreme_shapes_have_at_least_one_pixel(size: str, width: int, height: int) -> None:
    for dpr in DPRS.values():
        _check(plan_geometry(SIZES[size].scaled(dpr), facts(width, height)), width, height)


def _check(geometry: Geometry, width: int, height: int) -> None:
    assert 1 <= geometry.width <= geometry.scaled_width <= width
    assert 1 <= geometry.height <= geometry.scaled_height <= height
    assert 0 <= geometry.left <= geometry.scaled_width - geometry.width
    assert 0 <= geometry.top <= geometry.scaled_height - geometry.height
    assert max(geometry.width, geometry.height) <= MAX_SIDE


@given(FACTS, COVERS | CONTAINS)
def test_a_crop_lies_inside_the_scaled_image(source: MediaFacts, box: SizeSpec) -> None:
    _check(plan_geometry(box, source), source.width, source.height)


@given(FACTS, COVERS | CONTAINS)
def test_no_result_is_larger_than_its_box(source: MediaFacts, box: SizeSpec) -> None:
    geometry = plan_geometry(box, source)
    assert box.width is None or geometry.width <= box.width
    assert box.height is None or geometry.height <= box.height


def _scales(part: int, whole: int) -> tuple[float, float]:
    """Return the range of scales that round ``whole`` to ``part``, which is at least one pixel."""
    return (0 if part == 1 else (part - 0.5) / whole), (part + 0.5) / whole


def _same_shape(geometry: Geometry, width: int, height: int) -> bool:
    """Return whether one scale gives both sides, to the nearest pixel."""
    (least, most), (low, high) = _scales(geometry.width, width), _scales(geometry.height, height)
    return max(least, low) <= min(most, high) * (1 + 1e-9)


@given(FACTS, CONTAINS)
def test_a_contained_image_keeps_its_aspect_ratio(source: MediaFacts, box: SizeSpec) -> None:
    assert _same_shape(plan_geometry(box, source), source.width, source.height)


@given(FACTS, CONTAINS)
def test_a_contained_image_is_as_large_as_source_and_box_allow(
    source: MediaFacts, box: SizeSpec
) -> None:
    geometry = plan_geometry(box, source)
    assert (
        geometry.width in (source.width, box.width, MAX_SIDE)
        or geometry.height in (source.height, box.height, MAX_SIDE)
    )  # fmt: skip


@given(FACTS, COVERS)
def test_a_cover_crop_has_the_aspect_ratio_of_its_box(source: MediaFacts, box: SizeSpec) -> None:
    assert box.width is not None
    assert box.height is not None
    assert _same_shape(plan_geometry(box, source), box.width, box.height)


@given(FACTS, COVERS)
def test_a_cover_crop_cuts_along_one_side_only(source: MediaFacts, box: SizeSpec) -> None:
    geometry = plan_geometry(box, source)
    spare_width = geometry.scaled_width - geometry.width
    spare_height = geometry.scaled_height - geometry.height
    assert min(spare_width, spare_height) <= 1


def test_a_crop_beyond_the_limit_of_webp_is_scaled_down() -> None:
    box = SizeSpec("wall", 16000, 8000, Fit.COVER).scaled(3)
    geometry = plan_geometry(box, facts(65535, 65535))
    assert (geometry.width, geometry.height) == (MAX_SIDE, 8192)


def test_an_image_beyond_the_limit_of_webp_is_scaled_down() -> None:
    geometry = plan_geometry(SizeSpec("x", 500, None), facts(1, 16384))
    assert (geometry.width, geometry.height) == (1, MAX_SIDE)


def test_a_crop_without_a_focus_keeps_the_centre() -> None:
    geometry = plan_geometry(SIZES["thumbnail"], facts(600, 300))
    assert geometry == Geometry(300, 300, 600, 300, left=150, top=0)


@pytest.mark.parametrize(
    ("x", "left"),
    [(0.0, 0), (0.1, 0), (0.25, 0), (0.4, 90), (0.5, 150), (0.75, 300), (1.0, 300)],
)
def test_a_crop_is_centred_on_the_focus_within_the_image(x: float, left: int) -> None:
    geometry = plan_geometry(SIZES["thumbnail"], facts(600, 300, focus=Focus(x, 0.9)))
    assert (geometry.left, geometry.top) == (left, 0)


@pytest.mark.parametrize(("x", "left"), [(-7.0, 0), (12.5, 300)])
def test_a_focus_outside_the_image_means_its_edge(x: float, left: int) -> None:
    geometry = plan_geometry(SIZES["thumbnail"], facts(600, 300, focus=Focus(x, x)))
    assert (geometry.left, geometry.top) == (left, 0)


def test_gravity_centre_ignores_the_focus() -> None:
    box = replace(SIZES["thumbnail"], gravity=Gravity.CENTRE)
    geometry = plan_geometry(box, facts(600, 300, focus=Focus(0, 0)))
    assert geometry.left == 150


@given(FACTS)
def test_a_contained_image_is_never_cropped(source: MediaFacts) -> None:
    geometry = plan_geometry(SIZES["detail"], source)
    assert (geometry.scaled_width, geometry.scaled_height) == (geometry.width, geometry.height)
    assert (geometry.left, geometry.top) == (0, 0)


def test_all_boxes_larger_than_the_image_share_one_geometry() -> None:
    small = facts(200, 150)
    digests = {
        resolved(query, of=small).digest for query in ("", "size=zoom", "w=640", "dpr=3", "w=3840")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("query", ["size=grid", "size=grid&dpr=2", "w=640", "size=thumbnail&dpr=3"])
def test_a_purge_of_a_size_matches_the_shape_of_its_renditions(query: str) -> None:
    shapes = shapes_of(parse_boxes(query.partition("&")[0], sizes=SIZES), facts())
    for fmt, bg in product((Format.AVIF, Format.WEBP, Format.PNG), ("original", "removed")):
        assert has_shape(resolved(f"{query}&bg={bg}", fmt=fmt).digest, shapes)


def test_a_purge_of_a_size_matches_other_sizes_only_if_they_share_pixels() -> None:
    large = facts(16000, 12000)
    shapes = {name: shapes_of(parse_boxes(f"size={name}", sizes=SIZES), large) for name in SIZES}
    assert all(len(each) == len(DPRS) for each in shapes.values())
    shared = {(a, b): len(shapes[a] & shapes[b]) for a in SIZES for b in SIZES if a < b}
    # 1200 pixels at dpr 2 and 3 are 2400 at 1 and 1.5.
    assert {pair: count for pair, count in shared.items() if count} == {("detail", "zoom"): 2}
