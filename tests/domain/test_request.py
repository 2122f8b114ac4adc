"""Request parameters, content negotiation, and the record of a response."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.errors import BadParameter
from proxy.domain.formats import Format
from proxy.domain.request import (
    DPRS,
    FOREIGN_PARAMETERS,
    WIDTHS,
    Origin,
    Outcome,
    VariantRequest,
    ignored_parameters,
    last_values,
    parse_boxes,
    parse_request,
    width_box,
)
from proxy.domain.variant import Fit, SizeSpec
from tests.support.requests import SIZES, parsed


def test_an_empty_query_requests_detail_in_a_negotiated_format() -> None:
    assert parsed("") == VariantRequest(SIZES["detail"])
    assert parsed("").negotiated


@pytest.mark.parametrize("name", ["thumbnail", "small", "grid", "detail", "header", "zoom"])
def test_every_named_size_can_be_requested(name: str) -> None:
    assert parsed(f"size={name}") == VariantRequest(SIZES[name])


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
def test_the_last_value_applies_and_a_question_mark_separates(query: str) -> None:
    assert parsed(query).box.name == "thumbnail"


def test_values_are_ordered_by_their_last_occurrence() -> None:
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
def test_urls_that_front_ends_append_to_are_understood(query: str) -> None:
    assert parsed(query) == parsed("size=thumbnail")


@pytest.mark.parametrize(
    "query",
    [
        "size=detail&amp;size=thumbnail",
        "w=640&amp;size=thumbnail",
        "v=1&amp;amp;size=thumbnail",
        "v=1&AMP;size=thumbnail",
        "v=1&amp%3Bsize=thumbnail",
        "v=1%26amp%3Bsize=thumbnail&v=1",
        "v=1%26amp;size%3Dthumbnail",
        "v=1?amp=1&amp;&amp;size=thumbnail&amp;",
    ],
)
def test_an_ampersand_that_was_escaped_for_html_separates(query: str) -> None:
    assert parsed(query).box.name == "thumbnail"


def test_a_percent_encoded_ampersand_is_part_of_a_value() -> None:
    assert last_values("url=a%26b&c=d") == {"url": "a&b", "c": "d"}


@pytest.mark.parametrize("query", ["format=WEBP", "format=Webp", "Format=webp", "FORMAT=WEBP"])
def test_the_case_of_a_format_does_not_matter(query: str) -> None:
    assert parsed(query) == parsed("format=webp") == parsed("", "WEBP")


@pytest.mark.parametrize(
    ("query", "plain"),
    [
        ("size=Thumbnail", "size=thumbnail"),
        ("SIZE=THUMBNAIL", "size=thumbnail"),
        ("W=640&Dpr=2", "w=640&dpr=2"),
        ("BG=Removed&format=WebP", "bg=removed&format=webp"),
        ("Format=AUTO&Bg=ORIGINAL", "format=auto&bg=original"),
        ("V=aB", "v=aB"),
        ("size=grid&SIZE=small", "size=small"),
    ],
)
def test_names_and_values_have_any_case(query: str, plain: str) -> None:
    assert parsed(query) == parsed(plain)


def test_of_two_sizes_that_differ_by_case_the_exact_one_is_used() -> None:
    sizes = {**SIZES, "Hero": SizeSpec("Hero", 1, 1), "hero": SizeSpec("hero", 2, 2)}
    names = {name: parse_request(f"size={name}", sizes=sizes).box.name for name in sizes}
    assert names == {name: name for name in sizes}
    assert parse_request("size=HERO", sizes=sizes).box.name == "Hero"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("h=300", "h"),
        ("w=300&h=200&fit=crop&q=75", "fit, h, q"),
        ("fp=0.5,0.5&crop=1&blur=2&Quality=9", "blur, crop, fp, quality"),
        ("h=1&h=2&amp;H=3?h=4", "h"),
        (
            "fit-in=1&resizing_type=fill&c=fill&ar=16:9&fp-x=.5",
            "ar, c, fit-in, fp-x, resizing_type",
        ),
        ("size=grid&w=3&dpr=2&format=png&bg=removed&v=1", ""),
        ("utm_source=x&cb=1&t=1732100000&s=abc&ver=1&token=x&_=1", ""),
        ("%3Cscript%3E=1&x-y%0D%0A=2", ""),
        ("", ""),
    ],
)
def test_parameters_of_other_servers_are_named_and_no_others(query: str, names: str) -> None:
    assert ignored_parameters(query) == names


def test_no_own_parameter_counts_as_one_of_another_server() -> None:
    own = {"size", "w", "dpr", "format", "bg", "v"}
    assert not own & FOREIGN_PARAMETERS
    assert all(re.fullmatch("[a-z][a-z0-9_-]*", name) for name in FOREIGN_PARAMETERS)


@pytest.mark.parametrize("query", ["SIZE=Grid&amp;W=640", "Size=GRID&w=600"])
def test_a_purge_reads_its_sizes_like_a_request(query: str) -> None:
    assert parse_boxes(query, sizes=SIZES) == parse_boxes("size=grid&w=640", sizes=SIZES)


@pytest.mark.parametrize("name", ["size", "w", "dpr", "format", "bg", "v"])
def test_an_empty_value_is_ignored(name: str) -> None:
    assert parsed(f"{name}=") == parsed(name) == parsed("")


@pytest.mark.parametrize(
    "query",
    [
        "utm_source=x",
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


@pytest.mark.parametrize(
    ("query", "extension", "parameter", "allowed"),
    [
        ("size=huge", None, "size", "thumbnail, small, grid, detail, header, zoom"),
        ("size=+detail", None, "size", "detail"),
        ("dpr=4", None, "dpr", "1, 1.5, 2, 3"),
        ("dpr=2.0", None, "dpr", "1, 1.5, 2, 3"),
        ("format=bmp", None, "format", "auto, avif, webp, jpeg, jpg, png, gif"),
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
        ("", "bmp", "extension", "avif, webp, jpeg, jpg, png, gif"),
        ("", "php", "extension", "avif"),
        ("format=webp", "bmp", "extension", "avif"),
    ],
)
def test_a_bad_value_is_reported_with_parameter_and_allowed_values(
    query: str, extension: str | None, parameter: str, allowed: str
) -> None:
    with pytest.raises(BadParameter) as caught:
        parsed(query, extension)
    assert caught.value.parameter == parameter
    assert allowed in caught.value.allowed


def test_the_text_of_the_client_is_not_repeated() -> None:
    with pytest.raises(BadParameter) as caught:
        parsed("size=%3Cscript%3E")
    assert "script" not in caught.value.detail


@given(st.text())
@example("size=%")
@example("size=%ff%fe")
@example("?" * 1000)
def test_any_query_is_a_request_or_a_bad_parameter(query: str) -> None:
    try:
        label = parsed(query).box.name
    except BadParameter as error:
        label = error.parameter
    assert label in {*SIZES, "size", "w", "dpr", "format", "bg"} or label.startswith("w")


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [(1, 16), (16, 16), (17, 32), (300, 384), (640, 640), (641, 750), (2049, 3840), (3840, 3840)],
)
def test_a_width_is_rounded_up_to_an_allowed_one(requested: int, allowed: int) -> None:
    assert parsed(f"w={requested}").box == SizeSpec(f"w{allowed}", allowed, None)


@given(st.floats(min_value=0.1, max_value=100_000))
def test_a_rounded_width_is_allowed_and_not_smaller(width: float) -> None:
    rounded = width_box(width).width
    assert rounded in WIDTHS
    assert rounded >= min(width, WIDTHS[-1])


def test_a_width_is_rounded_after_the_dpr_is_applied() -> None:
    assert parsed("w=320&dpr=2").box.width == 640
    assert parsed("w=300&dpr=1.5").box.width == 640
    assert parsed("w=3840&dpr=3").box.width == 3840


@pytest.mark.parametrize(
    ("dpr", "side"), [("1", 300), ("1.5", 450), ("2", 600), ("3", 900), ("", 300)]
)
def test_a_named_size_grows_with_the_dpr(dpr: str, side: int) -> None:
    box = parsed(f"size=thumbnail&dpr={dpr}").box
    assert (box.width, box.height, box.fit) == (side, side, Fit.COVER)


def test_an_open_side_stays_open_at_any_dpr() -> None:
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
def test_the_last_of_width_and_size_applies(query: str, label: str) -> None:
    assert parsed(query).box.name == label


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


def test_a_format_in_the_query_overrides_the_extension() -> None:
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
def test_jpeg_with_a_removed_background_is_rejected(query: str, extension: str | None) -> None:
    with pytest.raises(BadParameter, match="no transparency") as caught:
        parsed(query, extension)
    assert caught.value.parameter == "format"


@pytest.mark.parametrize("fmt", ["auto", "avif", "webp", "png"])
def test_a_background_can_be_removed_in_every_format_that_has_transparency(fmt: str) -> None:
    assert parsed(f"bg=removed&format={fmt}").remove_background
    assert not parsed(f"bg=original&format={fmt}").remove_background


@pytest.mark.parametrize(("query", "label"), [("w=1", "w16"), ("w=640", "w640"), ("w=641", "w750")])
def test_a_purge_by_width_means_the_rounded_width(query: str, label: str) -> None:
    assert [box.name for box in parse_boxes(query, sizes=SIZES)] == [label]


@pytest.mark.parametrize("query", ["", "&", "?"])
def test_a_purge_without_a_size_has_no_boxes(query: str) -> None:
    assert parse_boxes(query, sizes=SIZES) == ()


@pytest.mark.parametrize("query", ["size=grid&w=640", "w=640?size=grid", "size%3Dgrid&w=600"])
def test_a_purge_may_name_several_sizes(query: str) -> None:
    names = [box.name for box in parse_boxes(query, sizes=SIZES)]
    assert sorted(names) == ["grid"] * len(DPRS) + ["w640"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("size=", "size"),
        ("size=huge", "size"),
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
def test_a_purge_rejects_unknown_parameters_and_values(query: str, parameter: str) -> None:
    with pytest.raises(BadParameter) as caught:
        parse_boxes(query, sizes=SIZES)
    assert caught.value.parameter == parameter


def test_an_outcome_without_an_image_has_the_label_none() -> None:
    outcome = Outcome("healthz")
    assert (outcome.size, outcome.format, outcome.source) == ("none", "none", Origin.NONE)
    assert (outcome.media_id, outcome.variant, outcome.error) == (None, None, None)


def test_a_changed_outcome_keeps_its_other_fields() -> None:
    outcome = Outcome("serve", media_id=5)._replace(source=Origin.DISK)
    assert (outcome.route, outcome.media_id, outcome.source) == ("serve", 5, "disk")


def test_the_labels_of_origins_do_not_change() -> None:
    # Dashboards and alerts name them.
    assert {str(one) for one in Origin} == {
        *("memory", "disk", "render", "coalesced", "fallback", "not_modified", "none")
    }
