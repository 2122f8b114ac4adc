"""From queries to variants: parsing, geometry, keys."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import BadParameter
from proxy.formats import NAMES, EncoderProfile, Format, QualitySearch, Stage
from proxy.media import Focus, Media, MediaFacts
from proxy.negotiation import negotiate
from proxy.settings import EncoderSettings, Settings
from proxy.variant import (
    DPRS,
    MAX_SIDE,
    WIDTHS,
    Fit,
    Geometry,
    Gravity,
    SizeSpec,
    Variant,
    VariantRequest,
    has_shape,
    last_values,
    parse_boxes,
    parse_request,
    plan_geometry,
    recipe,
    resolve,
    shapes_of,
    snap,
)

SIZES = Settings().size_specs()
PROFILES = EncoderSettings().profiles()
RECIPE = recipe("8.18.7")


def parsed(query: str, extension: str | None = None) -> VariantRequest:
    return parse_request(query, sizes=SIZES, extension=extension)


def facts(
    width: int = 4000, height: int = 3000, *, focus: Focus | None = None, pages: int = 1
) -> MediaFacts:
    return MediaFacts(
        content_hash="ab" * 32,
        byte_size=1_000_000,
        source_type="jpeg",
        width=width,
        height=height,
        has_alpha=False,
        pages=pages,
        flat_background=True,
        focus=focus,
        source_path="bulk/a.jpg",
    )


def media(media_id: int = 789) -> Media:
    return Media(
        id=media_id,
        user_id=42,
        data_type="product",
        original_name="a.jpg",
        mime_type="image/jpeg",
        file_size=1_000_000,
        bulk_path="bulk/a.jpg",
        library_path=None,
        status="completed",
        updated_at=datetime(2026, 11, 20, tzinfo=UTC),
    )


def resolved(
    query: str = "", *, fmt: Format = Format.WEBP, of: MediaFacts | None = None
) -> Variant:
    return resolve(parsed(query), media(), of or facts(), stage=Stage(PROFILES[fmt]), recipe=RECIPE)


def test_a_request_that_names_nothing_is_for_detail_in_a_negotiated_format() -> None:
    assert parsed("") == VariantRequest(SIZES["detail"], "detail")
    assert parsed("").negotiated


@pytest.mark.parametrize("name", ["thumbnail", "small", "grid", "detail", "header", "zoom"])
def test_each_named_size_can_be_asked_for(name: str) -> None:
    assert parsed(f"size={name}") == VariantRequest(SIZES[name], name)


@pytest.mark.parametrize(
    "query",
    [
        "size=detail&size=thumbnail",
        "size=detail?size=thumbnail",
        "size=zoom&size=detail?size=thumbnail",
        "size=bogus&size=thumbnail",
        "?size=thumbnail",
        "&&size=thumbnail&&",
        "size=thumbnail?",
        "size=%74humbnail",
    ],
)
def test_the_last_value_wins_and_a_question_mark_counts_as_an_ampersand(query: str) -> None:
    assert parsed(query).label == "thumbnail"


def test_values_are_told_in_the_order_of_their_last_mention() -> None:
    assert list(last_values("size=a&w=1&size=b").items()) == [("w", "1"), ("size", "b")]


@pytest.mark.parametrize(
    "query",
    [
        "size=detail?size=thumbnail",
        "size=detail%3Fsize=thumbnail",
        "size=detail%3fsize%3Dthumbnail",
        "%73ize=thumbnail",
    ],
)
def test_what_frontends_put_together_means_what_they_meant(query: str) -> None:
    assert parsed(query) == parsed("size=thumbnail")


@pytest.mark.parametrize("query", ["format=WEBP", "format=Webp"])
def test_formats_are_known_in_any_case(query: str) -> None:
    assert parsed(query) == parsed("format=webp") == parsed("", "WEBP")


@pytest.mark.parametrize("name", ["size", "w", "dpr", "format", "bg", "v"])
def test_an_empty_value_counts_as_not_given(name: str) -> None:
    assert parsed(f"{name}=") == parsed(name) == parsed("")


@pytest.mark.parametrize(
    "query",
    [
        "utm_source=x",
        "Size=thumbnail",
        "size[]=thumbnail",
        " size=thumbnail",
        "quality=1&width=9&height=9&q=1",
        "=thumbnail",
        "a=b=c",
        "%zz=%zz&%00=%ff",
        "cb=1732100000",
    ],
)
def test_unknown_parameters_are_ignored(query: str) -> None:
    assert parsed(query) == parsed("")


def test_unknown_parameters_never_reach_the_key() -> None:
    assert resolved("size=grid&utm_source=x").key == resolved("size=grid").key


@pytest.mark.parametrize(
    ("query", "extension", "parameter", "allowed"),
    [
        ("size=huge", None, "size", "thumbnail, small, grid, detail, header, zoom"),
        ("size=Detail", None, "size", "detail"),
        ("size=+detail", None, "size", "detail"),
        ("dpr=4", None, "dpr", "1, 1.5, 2, 3"),
        ("dpr=2.0", None, "dpr", "1, 1.5, 2, 3"),
        ("format=gif", None, "format", "auto, avif, webp, jpeg, jpg, png"),
        ("format=svg", None, "format", "auto"),
        ("bg=white", None, "bg", "original, removed"),
        ("w=0", None, "w", "from 1 to 3840"),
        ("w=3841", None, "w", "from 1 to 3840"),
        ("w=999999999999", None, "w", "from 1 to 3840"),
        ("w=-1", None, "w", "from 1 to 3840"),
        ("w=1.5", None, "w", "from 1 to 3840"),
        ("w=1e3", None, "w", "from 1 to 3840"),
        ("w=%D9%A1%D9%A0", None, "w", "from 1 to 3840"),
        ("w=10%0A", None, "w", "from 1 to 3840"),
        ("w=wide&size=grid", None, "w", "from 1 to 3840"),
        ("size=huge&w=640", None, "size", "detail"),
        ("", "gif", "extension", "avif, webp, jpeg, jpg, png"),
        ("", "php", "extension", "avif"),
        ("format=webp", "gif", "extension", "avif"),
    ],
)
def test_a_bad_value_is_told_with_its_parameter_and_what_is_allowed(
    query: str, extension: str | None, parameter: str, allowed: str
) -> None:
    with pytest.raises(BadParameter) as caught:
        parsed(query, extension)
    assert caught.value.parameter == parameter
    assert allowed in caught.value.allowed


def test_what_the_client_wrote_is_not_repeated_to_it() -> None:
    with pytest.raises(BadParameter) as caught:
        parsed("size=%3Cscript%3E")
    assert "script" not in caught.value.detail


@given(st.text())
@example("size=%")
@example("size=%ff%fe")
@example("?" * 1000)
def test_any_query_is_a_request_or_a_bad_parameter(query: str) -> None:
    try:
        label = parsed(query).label
    except BadParameter as error:
        label = error.parameter
    assert label in {*SIZES, "size", "w", "dpr", "format", "bg"} or label.startswith("w")


@pytest.mark.parametrize(
    ("asked", "rung"),
    [(1, 16), (16, 16), (17, 32), (300, 384), (640, 640), (641, 750), (2049, 3840), (3840, 3840)],
)
def test_a_width_snaps_up_to_the_ladder(asked: int, rung: int) -> None:
    assert parsed(f"w={asked}").box == SizeSpec(f"w{rung}", rung, None)
    assert parsed(f"w={asked}").label == f"w{rung}"


@given(st.floats(min_value=0.1, max_value=100_000))
def test_a_snapped_width_is_on_the_ladder_and_no_smaller_than_asked(width: float) -> None:
    assert snap(width) in WIDTHS
    assert snap(width) >= min(width, WIDTHS[-1])


def test_a_width_and_its_screen_snap_together() -> None:
    assert parsed("w=320&dpr=2").box.width == 640
    assert parsed("w=300&dpr=1.5").box.width == 640
    assert parsed("w=3840&dpr=3").box.width == 3840


@pytest.mark.parametrize(
    ("dpr", "side"), [("1", 300), ("1.5", 450), ("2", 600), ("3", 900), ("", 300)]
)
def test_a_named_size_grows_with_the_screen(dpr: str, side: int) -> None:
    box = parsed(f"size=thumbnail&dpr={dpr}").box
    assert (box.width, box.height, box.fit) == (side, side, Fit.COVER)


def test_an_open_side_stays_open_on_any_screen() -> None:
    assert parsed("size=small&dpr=2").box == replace(SIZES["small"], width=960)


@pytest.mark.parametrize(
    ("query", "label"),
    [
        ("w=640&size=grid", "grid"),
        ("size=grid&w=640", "w640"),
        ("size=grid&w=640&size=zoom", "zoom"),
        ("w=640&size=grid&w=750", "w750"),
        ("size=grid&w=", "grid"),
        ("w=640&size=", "w640"),
        ("size=detail?w=640", "w640"),
    ],
)
def test_of_width_and_size_the_one_named_last_counts(query: str, label: str) -> None:
    assert parsed(query).label == label


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("avif", Format.AVIF),
        ("webp", Format.WEBP),
        ("jpeg", Format.JPEG),
        ("jpg", Format.JPEG),
        ("png", Format.PNG),
    ],
)
def test_an_extension_means_the_same_as_a_format(name: str, fmt: Format) -> None:
    assert parsed(f"format={name}") == parsed("", name)
    assert parsed("", name).format is fmt
    assert not parsed("", name).negotiated


def test_a_format_in_the_query_wins_over_the_extension() -> None:
    assert parsed("format=png", "webp").format is Format.PNG
    assert parsed("format=auto", "webp").negotiated
    assert parsed("format=", "webp").format is Format.WEBP


@pytest.mark.parametrize(
    ("query", "extension"),
    [
        ("bg=removed&format=jpeg", None),
        ("bg=removed&format=jpg", None),
        ("bg=removed", "jpg"),
        ("bg=removed&format=jpeg", "png"),
    ],
)
def test_jpeg_without_its_background_is_refused(query: str, extension: str | None) -> None:
    with pytest.raises(BadParameter, match="no transparency") as caught:
        parsed(query, extension)
    assert caught.value.parameter == "format"


@pytest.mark.parametrize("fmt", ["auto", "avif", "webp", "png"])
def test_a_background_can_be_removed_in_every_format_that_has_transparency(fmt: str) -> None:
    assert parsed(f"bg=removed&format={fmt}").remove_background
    assert not parsed(f"bg=original&format={fmt}").remove_background


def test_any_version_token_is_taken_and_none_reaches_the_key() -> None:
    assert parsed("v=1").version == "1"
    assert parsed("v=%22%0D%0A..%2F").version == '"\r\n../'
    assert resolved("v=1").key == resolved("v=2").key == resolved("").key


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
def test_a_picture_meets_its_box_without_being_enlarged(
    size: str, width: int, height: int, expected: tuple[int, int]
) -> None:
    geometry = plan_geometry(SIZES[size], facts(width, height))
    assert (geometry.width, geometry.height) == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("width", "height"), [(1, 16384), (16384, 1), (1, 1), (16384, 16384)])
def test_extreme_shapes_have_a_geometry_of_at_least_a_pixel(
    size: str, width: int, height: int
) -> None:
    for dpr in DPRS.values():
        _check(plan_geometry(SIZES[size].scaled(dpr), facts(width, height)), width, height)


def _check(geometry: Geometry, width: int, height: int) -> None:
    assert 1 <= geometry.width <= geometry.scaled_width <= width
    assert 1 <= geometry.height <= geometry.scaled_height <= height
    assert 0 <= geometry.left <= geometry.scaled_width - geometry.width
    assert 0 <= geometry.top <= geometry.scaled_height - geometry.height
    assert max(geometry.width, geometry.height) <= MAX_SIDE


@given(FACTS, COVERS | CONTAINS)
def test_what_is_cut_out_lies_inside_the_scaled_picture_and_never_enlarges_it(
    source: MediaFacts, box: SizeSpec
) -> None:
    _check(plan_geometry(box, source), source.width, source.height)


@given(FACTS, COVERS | CONTAINS)
def test_no_picture_is_larger_than_its_box(source: MediaFacts, box: SizeSpec) -> None:
    geometry = plan_geometry(box, source)
    assert box.width is None or geometry.width <= box.width
    assert box.height is None or geometry.height <= box.height


def _scales(part: int, whole: int) -> tuple[float, float]:
    """Between which scales ``whole`` rounds to ``part``; whatever is less than a pixel is one."""
    return (0 if part == 1 else (part - 0.5) / whole), (part + 0.5) / whole


def _same_shape(geometry: Geometry, width: int, height: int) -> bool:
    """Whether one scale gives both sides, to the nearest pixel."""
    (least, most), (low, high) = _scales(geometry.width, width), _scales(geometry.height, height)
    return max(least, low) <= min(most, high) * (1 + 1e-9)


@given(FACTS, CONTAINS)
def test_a_contained_picture_keeps_its_shape_to_a_pixel(source: MediaFacts, box: SizeSpec) -> None:
    assert _same_shape(plan_geometry(box, source), source.width, source.height)


@given(FACTS, CONTAINS)
def test_a_contained_picture_is_as_large_as_source_and_box_allow(
    source: MediaFacts, box: SizeSpec
) -> None:
    geometry = plan_geometry(box, source)
    assert (
        geometry.width in (source.width, box.width, MAX_SIDE)
        or geometry.height in (source.height, box.height, MAX_SIDE)
    )  # fmt: skip


@given(FACTS, COVERS)
def test_a_covering_crop_has_the_shape_of_its_box_to_a_pixel(
    source: MediaFacts, box: SizeSpec
) -> None:
    assert box.width is not None
    assert box.height is not None
    assert _same_shape(plan_geometry(box, source), box.width, box.height)


@given(FACTS, COVERS)
def test_a_covering_crop_cuts_off_along_one_side_only(source: MediaFacts, box: SizeSpec) -> None:
    geometry = plan_geometry(box, source)
    spare_width = geometry.scaled_width - geometry.width
    spare_height = geometry.scaled_height - geometry.height
    assert min(spare_width, spare_height) <= 1


def test_a_crop_larger_than_webp_can_hold_is_brought_down_in_shape() -> None:
    box = SizeSpec("wall", 16000, 8000, Fit.COVER).scaled(3)
    geometry = plan_geometry(box, facts(65535, 65535))
    assert (geometry.width, geometry.height) == (MAX_SIDE, 8192)


def test_a_picture_longer_than_webp_can_hold_is_brought_down() -> None:
    geometry = plan_geometry(SizeSpec("x", 500, None), facts(1, 16384))
    assert (geometry.width, geometry.height) == (1, MAX_SIDE)


def test_a_crop_keeps_the_middle_while_no_focus_is_known() -> None:
    geometry = plan_geometry(SIZES["thumbnail"], facts(600, 300))
    assert geometry == Geometry(300, 300, 600, 300, left=150, top=0)


@pytest.mark.parametrize(
    ("x", "left"),
    [(0.0, 0), (0.1, 0), (0.25, 0), (0.4, 90), (0.5, 150), (0.75, 300), (1.0, 300)],
)
def test_a_crop_lies_about_the_focus_and_stays_inside(x: float, left: int) -> None:
    geometry = plan_geometry(SIZES["thumbnail"], facts(600, 300, focus=Focus(x, 0.9)))
    assert (geometry.left, geometry.top) == (left, 0)


@pytest.mark.parametrize(("x", "left"), [(-7.0, 0), (12.5, 300)])
def test_a_focus_outside_the_picture_means_its_edge(x: float, left: int) -> None:
    geometry = plan_geometry(SIZES["thumbnail"], facts(600, 300, focus=Focus(x, x)))
    assert (geometry.left, geometry.top) == (left, 0)


def test_gravity_centre_leaves_the_focus_aside() -> None:
    box = replace(SIZES["thumbnail"], gravity=Gravity.CENTRE)
    geometry = plan_geometry(box, facts(600, 300, focus=Focus(0, 0)))
    assert geometry.left == 150


@given(FACTS)
def test_a_contained_picture_is_never_cropped(source: MediaFacts) -> None:
    geometry = plan_geometry(SIZES["detail"], source)
    assert (geometry.scaled_width, geometry.scaled_height) == (geometry.width, geometry.height)
    assert (geometry.left, geometry.top) == (0, 0)


def test_all_boxes_larger_than_the_picture_share_one_rendition() -> None:
    small = facts(200, 150)
    digests = {
        resolved(query, of=small).digest for query in ("", "size=zoom", "w=640", "dpr=3", "w=3840")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("query", ["size=grid", "size=grid&dpr=2", "w=640", "size=thumbnail&dpr=3"])
def test_what_is_asked_for_has_the_shape_that_a_purge_of_its_size_names(query: str) -> None:
    shapes = shapes_of(parse_boxes(query.partition("&")[0], sizes=SIZES), facts())
    for fmt, bg in product((Format.AVIF, Format.WEBP, Format.PNG), ("original", "removed")):
        assert has_shape(resolved(f"{query}&bg={bg}", fmt=fmt).digest, shapes)


def test_a_purge_of_a_size_names_no_other_size_but_where_they_share_their_pixels() -> None:
    large = facts(16000, 12000)
    shapes = {name: shapes_of(parse_boxes(f"size={name}", sizes=SIZES), large) for name in SIZES}
    assert all(len(each) == len(DPRS) for each in shapes.values())
    shared = {(a, b): len(shapes[a] & shapes[b]) for a in SIZES for b in SIZES if a < b}
    # 1200 pixels at dpr 2 and 3 are 2400 at 1 and 1.5.
    assert {pair: count for pair, count in shared.items() if count} == {("detail", "zoom"): 2}


@pytest.mark.parametrize(("query", "label"), [("w=1", "w16"), ("w=640", "w640"), ("w=641", "w750")])
def test_a_purge_by_width_names_the_rung_that_it_snaps_to(query: str, label: str) -> None:
    assert [box.name for box in parse_boxes(query, sizes=SIZES)] == [label]


@pytest.mark.parametrize("query", ["", "&", "?"])
def test_a_purge_that_names_no_size_has_no_boxes(query: str) -> None:
    assert parse_boxes(query, sizes=SIZES) == ()


@pytest.mark.parametrize("query", ["size=grid&w=640", "w=640?size=grid", "size%3Dgrid&w=600"])
def test_a_purge_may_name_several_sizes_and_each_counts(query: str) -> None:
    names = [box.name for box in parse_boxes(query, sizes=SIZES)]
    assert sorted(names) == ["grid"] * len(DPRS) + ["w640"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("size=", "size"),
        ("size=huge", "size"),
        ("size=Thumbnail", "size"),
        ("w=", "w"),
        ("w=0", "w"),
        ("w=3841", "w"),
        ("size=grid&size=huge", "size"),
        ("size=&size=grid", "size"),
        ("sise=grid", "query"),
        ("size=grid&v=1", "query"),
        ("grid", "query"),
        ("=grid", "query"),
    ],
)
def test_a_purge_passes_over_nothing_that_it_does_not_understand(
    query: str, parameter: str
) -> None:
    with pytest.raises(BadParameter) as caught:
        parse_boxes(query, sizes=SIZES)
    assert caught.value.parameter == parameter


def test_no_shape_means_every_shape() -> None:
    assert has_shape(VARIANT.digest, None)
    assert has_shape(VARIANT.digest, {VARIANT.geometry.shape})
    assert not has_shape(VARIANT.digest, {replace(VARIANT.geometry, left=51).shape})


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
    "rival": [Stage(PROFILES[Format.WEBP]), Stage(PROFILES[Format.JPEG])],
    "base": [(2400, 1600), (2400, 1601)],
}


def test_equal_variants_have_equal_keys_on_every_node() -> None:
    twin = replace(VARIANT, profile=EncoderSettings().profiles()[Format.AVIF])
    assert twin is not VARIANT
    assert (twin.key, twin.digest, twin.etag) == (VARIANT.key, VARIANT.digest, VARIANT.etag)


def test_a_key_is_the_same_in_every_release_until_the_recipe_is_raised() -> None:
    # Whoever has to change these figures makes every cache in front of every server cold.
    assert VARIANT.key == (
        f"789/{'ab' * 32}/300x300@400x300+50+0/avif:Q=63,bitdepth=8,effort=0"
        "/original/still/r2-vips8.18.7"
    )
    assert VARIANT.etag == '"' + VARIANT.digest + '"'
    assert len(VARIANT.digest) == 32


def test_every_part_of_a_variant_is_tried_out() -> None:
    assert {field.name for field in fields(Variant)} == set(OTHER)


@pytest.mark.parametrize("part", OTHER)
def test_a_variant_that_differs_in_a_part_has_another_etag(part: str) -> None:
    etags = {VARIANT.etag, *(replace(VARIANT, **{part: value}).etag for value in OTHER[part])}
    assert len(etags) == 1 + len(OTHER[part])


MEANINGS = st.tuples(
    st.sampled_from([*(f"size={name}" for name in SIZES), *(f"w={width}" for width in WIDTHS)]),
    st.sampled_from([f"dpr={dpr}" for dpr in DPRS]),
    st.sampled_from(["format=avif", "format=webp", "format=png"]),
    st.sampled_from(["bg=original", "bg=removed"]),
)
"""What may be asked for, each by one pair of every kind."""
NOISE = st.sampled_from(
    ["", "utm_source=x", "Size=zoom", "size[]=grid", "v=1", "v=%00", "=", "%3D"]
)


def _encoded(text: str, letters: set[int]) -> str:
    """The same text with some letters percent-encoded, but for the equals sign."""
    return "".join(
        f"%{ord(one):02x}" if place in letters and one != "=" else one
        for place, one in enumerate(text)
    )


@given(MEANINGS, st.data())
def test_what_means_the_same_has_the_same_key_however_it_is_written(
    meaning: tuple[str, ...], draw: st.DataObject
) -> None:
    pairs = draw.draw(st.permutations(meaning))
    places = st.sets(st.integers(0, 20))
    written = [_encoded(pair, draw.draw(places)) for pair in pairs]
    noisy = [part for pair in written for part in (draw.draw(NOISE), pair)]
    query = draw.draw(st.sampled_from(["&", "?", "&&", "%3F", "%3f"])).join(noisy)
    earlier = "&".join(f"{pair.partition('=')[0]}=bogus" for pair in meaning)
    fmt = Format(meaning[2].removeprefix("format="))
    plain = resolved("&".join(meaning), fmt=fmt)
    assert resolved(f"{earlier}&{query}", fmt=fmt).key == plain.key
    assert parsed(query).format is parsed("&".join(meaning)).format is fmt


@given(MEANINGS, MEANINGS)
def test_what_goes_out_as_other_pixels_or_another_format_has_another_key(
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


def test_a_background_that_cannot_be_removed_shares_the_rendition_with_it() -> None:
    busy = replace(facts(), flat_background=False)
    assert resolved("bg=removed", of=busy) == resolved("", of=busy)
    assert resolved("bg=removed") != resolved("")


@pytest.mark.parametrize("fmt", Format)
def test_only_webp_and_gif_go_on_moving(fmt: Format) -> None:
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
    "Size": ("x",),
    "width": ("100", "200"),
    "": ("x",),
}


def _random_requests(source: random.Random, count: int) -> Iterator[tuple[str, str | None, str]]:
    """Raw queries, extensions and Accept headers; most are fit to be served."""
    pick, number = source.choice, source.randrange
    names = list(VALUES)
    ranges = ("image/avif", "image/webp", "image/*", "*/*", "image/jpeg", "image/png", "a/b")
    weights = (";q=0", ";q=0.3", ";q=1", "", ";q=x")
    for _ in range(count):
        named = (pick(names) for _ in range(number(5)))
        query = pick("&?").join(f"{name}={pick(VALUES[name])}" for name in named)
        accept = ",".join(pick(ranges) + pick(weights) for _ in range(number(4)))
        yield query, pick((None, None, None, "webp", "jpg", "gif")), accept


def test_a_hundred_thousand_random_urls_leave_no_more_renditions_than_the_sets_allow() -> None:
    """Hardening, row 7."""
    source = facts(5000, 4000, focus=Focus(0.3, 0.6))
    boxes = {size.scaled(dpr) for size in SIZES.values() for dpr in DPRS.values()}
    boxes |= {SizeSpec(f"w{width}", width, None) for width in WIDTHS}
    allowed = {
        resolve(
            VariantRequest(box, "", remove_background=removed),
            media(),
            source,
            stage=Stage(PROFILES[fmt]),
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
        fmt = request.format or negotiate(
            accept,
            order=(Format.AVIF, Format.WEBP, Format.JPEG),
            transparent=request.remove_background,
            animated=False,
        )
        seen.add(resolve(request, media(), source, stage=Stage(PROFILES[fmt]), recipe=RECIPE))
    assert seen <= allowed
    assert len({variant.digest for variant in allowed}) <= len(boxes) * 4 * 2
    # What is random reaches most of what there is, so that the bound is really tried.
    assert len(seen) > len(allowed) * 0.8
