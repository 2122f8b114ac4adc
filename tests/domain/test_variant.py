"""Variants: geometry, keys, digests and ETags."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from hashlib import blake2b
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import BadParameter
from proxy.domain.formats import NAMES, Format
from proxy.domain.media import MIN_CROP, CropBox, Focus, MediaChoices, MediaFacts
from proxy.domain.negotiation import acceptable
from proxy.domain.render_plan import resolve
from proxy.domain.request import DPRS, WIDTHS, VariantRequest, parse_boxes
from proxy.domain.variant import (
    MAX_SIDE,
    EncoderProfile,
    EncodingStage,
    Fit,
    Geometry,
    Gravity,
    QualitySearch,
    SizeSpec,
    Variant,
    has_shape,
    plan_geometry,
    recipe,
    shape_of,
    shapes_of,
)
from proxy.settings import EncoderSettings
from tests.support.requests import PROFILES, RECIPE, SIZES, facts, media, parsed, resolved

SIDES = st.integers(1, 16384)
BOX_SIDES = st.integers(1, MAX_SIDE)
FRACTIONS = st.floats(0, 1)
FACTS = st.builds(
    lambda width, height, focus: facts(width, height, focus=focus),
    SIDES,
    SIDES,
    st.none() | st.builds(Focus, FRACTIONS, FRACTIONS),
)
# Start and length of each side.
_SIDES = st.tuples(st.floats(0, 1 - MIN_CROP), st.floats(MIN_CROP, 1))
CROPS = st.builds(
    lambda across, down: CropBox(
        across[0], down[0], min(across[1], 1 - across[0]), min(down[1], 1 - down[0])
    ),
    _SIDES,
    _SIDES,
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


def _crop(*sides: float, size: str = "thumbnail") -> MediaChoices:
    return MediaChoices(crops=((size, CropBox(*sides)),))


@pytest.mark.parametrize("gravity", Gravity)
def test_a_focus_set_by_a_person_replaces_the_detected_one_and_the_centre(gravity: Gravity) -> None:
    box = replace(SIZES["thumbnail"], gravity=gravity)
    choices = MediaChoices(focus=Focus(1, 0))
    geometry = plan_geometry(box, facts(600, 300, focus=Focus(0, 0)), choices)
    assert geometry == Geometry(300, 300, 600, 300, left=300, top=0)


def test_a_crop_of_the_size_comes_before_the_focus_of_the_image() -> None:
    choices = replace(_crop(0, 0, 0.5, 1), focus=Focus(1, 1))
    geometry = plan_geometry(SIZES["thumbnail"], facts(600, 300), choices)
    assert geometry == Geometry(300, 300, 600, 300, left=0, top=0)
    # Other sizes have no crop and follow the focus.
    other = plan_geometry(replace(SIZES["thumbnail"], name="other"), facts(600, 300), choices)
    assert other.left == 300


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        # Of the aspect ratio of the size, and larger than it: scaled down.
        ((0.25, 0.25, 0.25, 0.5), Geometry(300, 300, 1200, 600, left=300, top=150)),
        # Smaller than the size: not enlarged.
        ((0, 0, 0.0625, 0.125), Geometry(150, 150, 2400, 1200, left=0, top=0)),
        # Wider than the size: grows above and below.
        ((0.25, 0.25, 0.5, 0.1), Geometry(300, 300, 600, 300, left=150, top=0)),
        # Growth beyond the edge moves the window.
        ((0.0, 0.0, 0.125, 0.5), Geometry(300, 300, 1200, 600, left=0, top=0)),
        # Too wide for the image: as much as fits around its centre.
        ((0.2, 0.4, 0.8, 0.2), Geometry(300, 300, 600, 300, left=210, top=0)),
        ((0, 0, 1, 1), Geometry(300, 300, 600, 300, left=150, top=0)),
    ],
)
def test_a_crop_keeps_its_region_in_the_aspect_ratio_of_the_size(
    sides: tuple[float, ...], expected: Geometry
) -> None:
    assert plan_geometry(SIZES["thumbnail"], facts(2400, 1200), _crop(*sides)) == expected


def test_a_crop_holds_for_every_density_of_its_size() -> None:
    choices = _crop(0.5, 0.5, 0.25, 0.5)
    for dpr in DPRS.values():
        geometry = plan_geometry(SIZES["thumbnail"].scaled(dpr), facts(4800, 2400), choices)
        assert geometry.left / geometry.scaled_width == pytest.approx(0.5, abs=0.01)
        assert geometry.width / geometry.scaled_width == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("size", ["detail", "thumbnail"])
def test_choices_do_not_change_sizes_without_a_crop(size: str) -> None:
    box = SIZES["detail"] if size == "detail" else replace(SIZES["thumbnail"], height=None)
    choices = replace(_crop(0, 0, 0.5, 0.5, size=size), focus=Focus(1, 1))
    assert plan_geometry(box, facts(), choices) == plan_geometry(box, facts())


@given(COVERS, FACTS, CROPS.map(lambda box: _crop(*box, size="x")))
def test_a_crop_is_within_the_image_keeps_its_region_and_never_enlarges(
    box: SizeSpec, choices_facts: MediaFacts, choices: MediaChoices
) -> None:
    geometry = plan_geometry(box, choices_facts, choices)
    crop = choices.crops[0][1]
    assert 1 <= geometry.width <= min(geometry.scaled_width, MAX_SIDE)
    assert 1 <= geometry.height <= min(geometry.scaled_height, MAX_SIDE)
    assert 0 <= geometry.left <= geometry.scaled_width - geometry.width
    assert 0 <= geometry.top <= geometry.scaled_height - geometry.height
    assert geometry.scaled_width <= choices_facts.width
    assert geometry.scaled_height <= choices_facts.height
    # A region is kept as a whole unless the image is too narrow for the aspect ratio of the box.
    for start, length, left, width, whole in (
        (crop.left, crop.width, geometry.left, geometry.width, geometry.scaled_width),
        (crop.top, crop.height, geometry.top, geometry.height, geometry.scaled_height),
    ):
        kept = min(left + width, (start + length) * whole) - max(left, start * whole)
        # Rounded sides of the image, of the crop and of its start.
        assert kept >= min(length * whole, width) - 2


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


def test_unknown_parameters_never_reach_the_key() -> None:
    assert resolved("size=grid&utm_source=x").key == resolved("size=grid").key


def test_any_version_token_is_accepted_and_none_reaches_the_key() -> None:
    assert parsed("v=1").version == "1"
    assert parsed("v=%22%0D%0A..%2F").version == '"\r\n../'
    assert resolved("v=1").key == resolved("v=2").key == resolved("").key


def test_no_shape_means_every_shape() -> None:
    assert has_shape(VARIANT.digest, None)
    assert has_shape(VARIANT.digest, {shape_of(VARIANT.geometry)})
    assert not has_shape(VARIANT.digest, {shape_of(replace(VARIANT.geometry, left=51))})


VARIANT = Variant(
    media_id=789,
    version="ab" * 32,
    geometry=Geometry(300, 300, 400, 300, left=50),
    profile=PROFILES[Format.AVIF],
    background_removed=False,
    animated=False,
    recipe=RECIPE,
)
OTHER: dict[str, list[Any]] = {
    "media_id": [790, 78, 7890],
    "version": ["ba" * 32],
    "geometry": [
        Geometry(301, 300, 400, 300, left=50),
        Geometry(300, 299, 400, 300, left=50),
        Geometry(300, 300, 401, 300, left=50),
        Geometry(300, 300, 400, 301, left=50),
        Geometry(300, 300, 400, 300, left=51),
        Geometry(300, 300, 400, 300, left=50, top=1),
        Geometry(300, 300, 400, 300, left=5, top=0),
    ],
    "profile": [
        PROFILES[Format.WEBP],
        EncoderProfile(Format.AVIF, (("Q", 64), ("bitdepth", 8), ("effort", 1))),
        EncoderProfile(Format.AVIF, (("Q", 63), ("bitdepth", 8), ("effort", 2))),
        EncoderProfile(Format.AVIF, (("Q", 63), ("bitdepth", 8))),
    ],
    "background_removed": [True],
    "animated": [True],
    "recipe": [recipe("8.18.8"), recipe("8.18.7", copyright_notice="(c) us")],
    "search": [
        QualitySearch(75, 40, 90),
        QualitySearch(75.5, 40, 90),
        QualitySearch(75, 41, 90),
        QualitySearch(75, 40, 91),
        QualitySearch(75, 40, 90, max_encodes=3),
    ],
    "alternative": [EncodingStage(PROFILES[Format.WEBP]), EncodingStage(PROFILES[Format.JPEG])],
    "base": [(2400, 1600), (2400, 1601)],
    "lean": [True],
    "stored_as": ["0" * 32],
}
SAME_CONTENT = ("profile", "recipe", "search", "alternative", "base")
"""Parts that decide how an image is encoded, not what it shows."""


def test_equal_variants_have_equal_keys_on_every_node() -> None:
    twin = replace(VARIANT, profile=EncoderSettings().profiles()[Format.AVIF])
    assert twin is not VARIANT
    assert (twin.key, twin.digest, twin.etag) == (VARIANT.key, VARIANT.digest, VARIANT.etag)


def test_a_key_does_not_change_between_releases_of_one_recipe() -> None:
    # Whoever has to change these figures makes every cache in front of every server cold.
    assert VARIANT.key == (
        f"789/{'ab' * 32}/300x300@400x300+50+0/avif:Q=63,bitdepth=8,effort=0"
        "/original/still/r8-vips8.18.7"
    )
    assert VARIANT.etag == '"' + VARIANT.digest + '"'
    assert VARIANT.digest == "cbb6b0a3206e67ba73224161e0fbb426"


@pytest.mark.parametrize("part", OTHER)
def test_renditions_of_another_recipe_are_found_by_what_they_show(part: str) -> None:
    for value in OTHER[part]:
        other = replace(VARIANT, **{part: value})
        alike = part in SAME_CONTENT and other.format is VARIANT.format
        assert (other.digest[:16] == VARIANT.digest[:16]) == alike
        assert [one.etag for one in VARIANT.others({other.digest, VARIANT.digest})] == (
            [other.etag] if alike else []
        )


def test_a_rendition_from_before_digests_had_a_content_is_of_another_recipe() -> None:
    rest = blake2b(VARIANT.key.encode(), digest_size=12).hexdigest()
    former = shape_of(VARIANT.geometry) + rest
    (found,) = VARIANT.others({former})
    assert (found.file_name, found.etag) == (f"{former}.avif", f'"{former}"')
    assert replace(VARIANT, version="cd" * 32).others({former}) == []


def test_the_cases_cover_every_part_of_a_variant() -> None:
    assert {field.name for field in fields(Variant)} == set(OTHER)


@pytest.mark.parametrize("part", OTHER)
def test_a_variant_that_differs_in_one_part_has_another_etag(part: str) -> None:
    etags = {VARIANT.etag, *(replace(VARIANT, **{part: value}).etag for value in OTHER[part])}
    assert len(etags) == 1 + len(OTHER[part])


MEANINGS = st.tuples(
    st.sampled_from([*(f"size={name}" for name in SIZES), *(f"w={width}" for width in WIDTHS)]),
    st.sampled_from([f"dpr={dpr}" for dpr in DPRS]),
    st.sampled_from(["format=avif", "format=webp", "format=png"]),
    st.sampled_from(["bg=original", "bg=removed"]),
)
"""Every parameter with each of its values."""
NOISE = st.sampled_from(
    ["", "utm_source=x", "sizes=zoom", "size[]=grid", "v=1", "v=%00", "=", "%3D"]
)


def _encoded(text: str, letters: set[int]) -> str:
    """Return the text with some letters percent-encoded, except for the equals sign."""
    return "".join(
        f"%{ord(one):02x}" if place in letters and one != "=" else one
        for place, one in enumerate(text)
    )


@given(MEANINGS, st.data())
def test_queries_of_the_same_meaning_have_the_same_key(
    meaning: tuple[str, ...], draw: st.DataObject
) -> None:
    pairs = draw.draw(st.permutations(meaning))
    places = st.sets(st.integers(0, 20))
    written = [_encoded(pair, draw.draw(places)) for pair in pairs]
    noisy = [part for pair in written for part in (draw.draw(NOISE), pair)]
    query = draw.draw(st.sampled_from(["&", "?", "&&", "%3F", "%3f", "&amp;"])).join(noisy)
    earlier = "&".join(f"{pair.partition('=')[0]}=bogus" for pair in meaning)
    fmt = Format(meaning[2].removeprefix("format="))
    plain = resolved("&".join(meaning), fmt=fmt)
    assert resolved(f"{earlier}&{query}", fmt=fmt).key == plain.key
    assert parsed(query).format is parsed("&".join(meaning)).format is fmt


@given(MEANINGS, MEANINGS)
def test_other_pixels_or_another_format_have_another_key(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    variants = [
        resolved("&".join(meaning), fmt=Format(meaning[2].removeprefix("format=")))
        for meaning in (one, other)
    ]
    decides = [(made.geometry, made.format, made.background_removed) for made in variants]
    for name in ("key", "digest", "etag"):
        same = getattr(variants[0], name) == getattr(variants[1], name)
        assert same == (decides[0] == decides[1])


def test_the_copyright_is_a_part_of_the_recipe() -> None:
    plain = recipe("8.18.7")
    assert recipe("8.18.7", copyright_notice=None) == recipe("8.18.7", copyright_notice="") == plain
    marked = {recipe("8.18.7", copyright_notice=notice) for notice in ("us", "them", "ü/\n")}
    assert len(marked | {plain}) == 4
    assert all("/" not in text and "\n" not in text for text in marked)


def test_an_irremovable_background_shares_the_rendition_of_the_original() -> None:
    busy = replace(facts(), flat_background=False)
    assert resolved("bg=removed", of=busy) == resolved("", of=busy)
    assert resolved("bg=removed") != resolved("")


@pytest.mark.parametrize("fmt", Format)
def test_only_webp_and_gif_are_animated(fmt: Format) -> None:
    variant = resolved(fmt=fmt, of=facts(pages=5))
    assert variant.animated == (fmt in (Format.WEBP, Format.GIF))
    assert variant.format is fmt


VALUES: dict[str, tuple[str, ...]] = {
    "size": (*SIZES, "bogus"),
    "w": (*map(str, range(1, 4000, 7)), "٣", "1e3", "-1", "+300"),
    "dpr": (*DPRS, "4"),
    "format": ("auto", "avif", "webp", "jpeg", "jpg", "png", "gif"),
    "bg": ("original", "removed", "white"),
    "v": ("1", "2", "%00", ""),
    "utm": ("x", "y"),
    "Size": ("GRID", "Zoom"),
    "width": ("100", "200"),
    "": ("x",),
}


def _random_requests(source: random.Random, count: int) -> Iterator[tuple[str, str | None, str]]:
    """Yield raw queries, extensions and Accept headers, most of them valid."""
    pick, number = source.choice, source.randrange
    names = list(VALUES)
    ranges = ("image/avif", "image/webp", "image/*", "*/*", "image/jpeg", "image/png", "a/b")
    weights = (";q=0", ";q=0.3", ";q=1", "", ";q=x")
    for _ in range(count):
        named = (pick(names) for _ in range(number(5)))
        query = pick("&?").join(f"{name}={pick(VALUES[name])}" for name in named)
        accept = ",".join(pick(ranges) + pick(weights) for _ in range(number(4)))
        yield query, pick((None, None, None, "webp", "jpg", "gif")), accept


@pytest.mark.slow
def test_random_urls_give_no_more_renditions_than_the_closed_sets() -> None:
    """Hardening, row 7."""
    source = facts(5000, 4000, focus=Focus(0.3, 0.6))
    boxes = {size.scaled(dpr) for size in SIZES.values() for dpr in DPRS.values()}
    boxes |= {SizeSpec(f"w{width}", width, None) for width in WIDTHS}
    allowed = {
        resolve(
            VariantRequest(box, remove_background=removed),
            media(),
            source,
            stage=EncodingStage(PROFILES[fmt]),
            recipe=RECIPE,
        )
        for box, fmt, removed in product(boxes, set(NAMES.values()), (False, True))
        if not (removed and fmt is Format.JPEG)
    }
    seen: set[Variant] = set()
    for query, extension, accept in _random_requests(random.Random(7), 100_000):
        try:
            request = parsed(query, extension)
        except BadParameter:
            continue
        fmt = (
            request.format
            or acceptable(
                accept,
                order=(Format.AVIF, Format.WEBP, Format.JPEG),
                transparent=bool(request.remove_background),
                animated=False,
            )[0]
        )
        seen.add(
            resolve(request, media(), source, stage=EncodingStage(PROFILES[fmt]), recipe=RECIPE)
        )
    assert seen <= allowed
    assert len({variant.digest for variant in allowed}) <= len(boxes) * len(Format) * 2
    # What is random reaches most of what there is, so that the bound is really tried.
    assert len(seen) > len(allowed) * 0.8
