"""Request parameters, content negotiation, and the record of a response."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.errors import BadParameter
from proxy.domain.formats import Format
from proxy.domain.request import (
    DPRS,
    WIDTHS,
    Origin,
    Outcome,
    VariantRequest,
    acceptable,
    explain,
    fallback,
    last_values,
    parse_boxes,
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


@pytest.mark.parametrize("query", ["format=WEBP", "format=Webp"])
def test_the_case_of_a_format_does_not_matter(query: str) -> None:
    assert parsed(query) == parsed("format=webp") == parsed("", "WEBP")


@pytest.mark.parametrize("name", ["size", "w", "dpr", "format", "bg", "v"])
def test_an_empty_value_is_ignored(name: str) -> None:
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


AVIF, WEBP, JPEG, PNG, GIF = Format.AVIF, Format.WEBP, Format.JPEG, Format.PNG, Format.GIF
ORDER = (AVIF, WEBP, JPEG)
PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,"

MODERN = (AVIF, AVIF, WEBP)
"""Clients that accept AVIF; an animation is sent as WebP, because AVIF is never animated."""
WITH_WEBP = (WEBP, WEBP, WEBP)
OLD = (JPEG, PNG, GIF)

CLIENTS: dict[str, tuple[str | None, tuple[Format, Format, Format]]] = {
    "Chrome 85+, Edge 121+, Opera: img": (
        "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
        MODERN,
    ),
    "Chrome 85+: navigation": (
        PAGE + "image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
        MODERN,
    ),
    "Chrome 32-84, Edge 79-120: img": ("image/webp,image/apng,image/*,*/*;q=0.8", WITH_WEBP),
    "Chrome 70: navigation": (PAGE + "image/webp,image/apng,*/*;q=0.8", WITH_WEBP),
    "Edge 18: img": ("image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", OLD),
    "Edge 18: navigation": ("text/html, application/xhtml+xml, image/jxr, */*", OLD),
    "Internet Explorer 11: img": ("image/png, image/svg+xml, image/*;q=0.8, */*;q=0.5", OLD),
    "Internet Explorer 8: navigation": (
        (
            "image/jpeg, application/x-ms-application, image/gif, application/xaml+xml, "
            "image/pjpeg, application/x-ms-xbap, application/msword, */*"
        ),
        OLD,
    ),
    "Firefox 128+: img": (
        "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
        MODERN,
    ),
    "Firefox 93-127: img": ("image/avif,image/webp,*/*", MODERN),
    "Firefox 65-92: img": ("image/webp,*/*", WITH_WEBP),
    "Firefox 47-64: img": ("*/*", OLD),
    "Firefox 46 and older: img": ("image/png,image/*;q=0.8,*/*;q=0.5", OLD),
    "Firefox 132+: navigation": (PAGE + "*/*;q=0.8", OLD),
    "Firefox 128-131: navigation": (
        PAGE + "image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.8",
        MODERN,
    ),
    "Firefox 93-127: navigation": (PAGE + "image/avif,image/webp,*/*;q=0.8", MODERN),
    "Firefox 72-92: navigation": (PAGE + "image/webp,*/*;q=0.8", WITH_WEBP),
    "Safari 17+: img": (
        (
            "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,"
            "image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"
        ),
        MODERN,
    ),
    "Safari 16: img": (
        "image/webp,image/avif,video/*;q=0.8,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
        MODERN,
    ),
    "Safari 14-15: img": (
        "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
        WITH_WEBP,
    ),
    "Safari 11-13: img": (
        "image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
        OLD,
    ),
    "Safari: navigation": (PAGE + "*/*;q=0.8", OLD),
    "Opera 12 (Presto)": (
        (
            "text/html, application/xml;q=0.9, application/xhtml+xml, image/png, image/webp, "
            "image/jpeg, image/gif, image/x-xbitmap, */*;q=0.1"
        ),
        WITH_WEBP,
    ),
    "curl, wget, facebookexternalhit, Slackbot": ("*/*", OLD),
    "Slack-ImgProxy": ("image/*,*/*;q=0.8", OLD),
    "Googlebot-Image": ("image/*", OLD),
    "Googlebot: pages": (
        (
            "text/html,application/xhtml+xml,application/signed-exchange;v=b3,"
            "application/xml;q=0.9,*/*;q=0.8"
        ),
        OLD,
    ),
    "fetch() of a script": ("application/json, text/plain, */*", OLD),
    "empty": ("", OLD),
    "missing": (None, OLD),
}


def chosen(
    accept: str | None,
    *,
    order: tuple[Format, ...] = ORDER,
    transparent: bool = False,
    animated: bool = False,
) -> Format:
    return acceptable(accept, order=order, transparent=transparent, animated=animated)[0]


@pytest.mark.parametrize("client", CLIENTS)
def test_an_opaque_image_is_sent_in_the_best_format_of_the_client(client: str) -> None:
    accept, (opaque, _, _) = CLIENTS[client]
    assert chosen(accept) is opaque


@pytest.mark.parametrize("client", CLIENTS)
def test_a_transparent_image_is_sent_in_a_format_with_transparency(client: str) -> None:
    accept, (_, transparent, _) = CLIENTS[client]
    assert chosen(accept, transparent=True) is transparent


@pytest.mark.parametrize("client", CLIENTS)
def test_an_animation_is_sent_in_an_animated_format(client: str) -> None:
    accept, (_, _, animated) = CLIENTS[client]
    assert chosen(accept, animated=True) is animated
    assert chosen(accept, animated=True, transparent=True) is animated


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/avif;q=0,image/webp", WEBP),
        ("image/avif;q=0.0,image/webp;q=0.00", JPEG),
        ("image/avif;q=0,*/*", JPEG),
        ("image/avif,image/webp;q=0", AVIF),
    ],
)
def test_a_q_value_of_zero_excludes_a_format(accept: str, expected: Format) -> None:
    assert chosen(accept) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("image/avif;q=0.5,image/webp;q=0.8", WEBP),
        ("image/avif;q=0.8,image/webp;q=0.5", AVIF),
        ("image/webp;q=0.8,image/jpeg", JPEG),
        ("image/avif;q=0.5,image/webp;q=0.6,image/jpeg;q=0.7", JPEG),
        ("image/avif;q=0.999,image/jpeg;q=1.000", JPEG),
        ("image/avif;q=0.001,image/jpeg;q=0", AVIF),
        ("image/avif;q=0.001", AVIF),
    ],
)
def test_the_highest_q_value_is_selected(accept: str, expected: Format) -> None:
    assert chosen(accept) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        # RFC 9110, 12.5.1: the most specific range that matches gives the weight.
        ("image/webp;q=0.6,image/*;q=0.5", WEBP),
        ("image/webp;q=0.6,image/*;q=0.7", JPEG),
        ("image/webp;q=0.6,image/*;q=0.7,image/jpeg;q=0.1", WEBP),
        ("image/webp;q=0.6,*/*;q=0.7,image/*;q=0.1", WEBP),
        ("image/webp;q=0.6,*/*;q=0.7", JPEG),
        ("*/*;q=0.1,image/*,image/avif;q=0.5", JPEG),
    ],
)
def test_the_most_specific_range_gives_the_q_value(accept: str, expected: Format) -> None:
    assert chosen(accept) is expected


def test_the_q_value_of_png_applies_to_a_transparent_image() -> None:
    assert chosen("image/webp;q=0.6,image/png;q=0.9", transparent=True) is PNG
    assert chosen("image/webp;q=0.6,image/png;q=0.9") is WEBP


def test_the_q_value_of_gif_applies_to_an_animation() -> None:
    assert chosen("image/webp;q=0.6,image/gif;q=0.9", animated=True) is GIF


def test_a_client_of_avif_alone_receives_an_animation_as_gif() -> None:
    assert chosen("image/avif", animated=True) is GIF


@pytest.mark.parametrize(
    "accept",
    [
        "image/webp",
        "IMAGE/WEBP",
        "Image/WebP;Q=0.9",
        "  image/webp  ",
        "\timage/webp\t;\tq=0.9\t",
        "image/webp ; q = 0.9",
        ",,image/webp,,",
        " , image/webp , ",
        "image/webp;",
        "image/webp;;q=0.9",
        "text/html;level=1, image/webp",
        'text/html;title="a, image/jpeg;q=1, b", image/webp',
        'text/html;title="a\\", image/avif", image/webp',
        'text/html;title="\\\\", image/webp',
    ],
)
def test_case_blanks_and_quoted_strings_do_not_matter(accept: str) -> None:
    assert chosen(accept) is WEBP


@pytest.mark.parametrize(
    "accept",
    [
        "image/webp;q=",
        "image/webp;q",
        "image/webp;q=a",
        "image/webp;q=-1",
        "image/webp;q=1.1",
        "image/webp;q=2",
        "image/webp;q=0.1234",
        "image/webp;q=.5",
        "image/webp;q=1e0",
        "image/webp;q=0,5",
        "image/webp;q=NaN",
        "image/webp;q=inf",
        "image/webp;q=\u0660.\u0665",
        'image/webp;q="0.5"',
        "image/webp q=0.5",
        "image / webp",
        "image\\webp",
        "image",
        "webp",
        ".webp",
        "image/webp2",
        "ximage/webp",
        "image/web",
        "image/webp/x",
        '"image/webp"',
        '"a, image/webp',
        'text/html;title="a, image/webp',
        "\xa0image/webp\xa0",
        ";image/webp",
        "=image/webp",
    ],
)
def test_a_malformed_element_never_selects_a_format(accept: str) -> None:
    assert chosen(accept) is JPEG


@pytest.mark.parametrize("accept", [";", ";;", ",;", ";q=1", '"', '";', "=", "/", "*", "*/", "/*"])
def test_fragments_of_a_header_select_the_fallback(accept: str) -> None:
    assert chosen(accept) is JPEG


def test_a_malformed_element_does_not_affect_the_others() -> None:
    assert chosen("image/avif;q=banana,image/webp") is WEBP


def test_a_range_with_parameters_never_matches() -> None:
    assert chosen("image/avif;codecs=av01,image/webp") is WEBP


def test_a_repeated_range_has_its_lowest_q_value() -> None:
    assert chosen("image/avif,image/webp,image/avif;q=0") is WEBP
    assert chosen("image/avif;q=0,image/webp,image/avif") is WEBP


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/svg+xml", "*/*;q=0", "image/*;q=0", "image/jpeg;q=0,image/png;q=0", "a/b"],
)
def test_a_header_that_excludes_everything_selects_the_fallback(accept: str) -> None:
    assert chosen(accept) is JPEG
    assert chosen(accept, transparent=True) is PNG
    assert chosen(accept, animated=True) is GIF


@pytest.mark.parametrize("accept", ["*/*", "image/*", "image/*;q=1", "*/*;q=1,image/*"])
def test_a_wildcard_never_selects_avif_or_webp(accept: str) -> None:
    assert chosen(accept) is JPEG


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((AVIF, WEBP, JPEG), AVIF),
        ((WEBP, AVIF, JPEG), WEBP),
        ((JPEG, WEBP, AVIF), JPEG),
        ((WEBP, JPEG), WEBP),
        ((JPEG,), JPEG),
    ],
)
def test_the_order_of_the_settings_breaks_ties(order: tuple[Format, ...], expected: Format) -> None:
    assert chosen("image/jpeg,image/avif,image/webp,*/*", order=order) is expected


def test_png_and_gif_have_the_position_of_jpeg_in_the_order() -> None:
    order = (WEBP, JPEG, AVIF)
    assert chosen("image/avif,image/png", order=order, transparent=True) is PNG
    assert chosen("image/webp,image/gif", order=(JPEG, WEBP), animated=True) is GIF


def test_a_q_value_precedes_the_order_of_the_settings() -> None:
    assert chosen("image/webp;q=0.9,image/jpeg;q=0.8", order=(JPEG, WEBP, AVIF)) is WEBP


def test_a_format_outside_the_order_is_never_selected() -> None:
    assert chosen("image/avif", order=(WEBP, JPEG)) is JPEG


def test_the_fallback_keeps_transparency_and_animation() -> None:
    assert fallback(transparent=False, animated=False) is JPEG
    assert fallback(transparent=True, animated=False) is PNG
    assert fallback(transparent=True, animated=True) is GIF


def test_an_element_beyond_the_longest_header_is_not_read() -> None:
    assert chosen("text/html," * 1000 + "image/webp") is JPEG


@pytest.mark.parametrize("padding", range(2045, 2060))
def test_a_long_header_is_never_cut_between_a_range_and_its_q_value(padding: int) -> None:
    blanks = " " * (padding - len("image/webp;q=0"))
    assert chosen(f"{blanks}image/webp;q=0,text/html" + ",text/html" * 10) is JPEG


@pytest.mark.parametrize(
    "hostile",
    ['"' + '\\"' * 4000, ';"\\' * 2000, '"' * 8000, 'a;"' + '\\"' * 4000, ",;" * 4000, "=" * 8000],
)
def test_a_hostile_header_is_parsed_in_linear_steps(hostile: str) -> None:
    # CPU time, so that other processes do not matter. Backtracking would take minutes.
    began = time.process_time()
    for number in range(20):
        assert chosen(f"{number}{hostile}") is JPEG
    assert time.process_time() - began < 2


RANGES = st.sampled_from(
    [
        "image/avif",
        "image/webp",
        "image/jpeg",
        "image/png",
        "image/*",
        "*/*",
        "text/html",
        "IMAGE/AVIF",
    ]
)
PARAMETERS = st.sampled_from(
    ["", ";q=0", ";q=0.5", ";q=1", ";q=1.0", "; Q=0.25", ";q=x", ";v=1", ';t="a,b"', ';t="']
)
ELEMENTS = st.builds(str.__add__, RANGES, PARAMETERS)
HEADERS = st.one_of(
    st.none(),
    st.text(max_size=80),
    st.text(alphabet='image/vfwebpjng*,;q=01."\\ \t', max_size=80),
    st.lists(ELEMENTS, max_size=6).map(",".join),
)
ORDERS = st.permutations(ORDER).map(tuple)


@given(accept=HEADERS, order=ORDERS, transparent=st.booleans(), animated=st.booleans())
@example(accept=";", order=ORDER, transparent=False, animated=False)
@example(accept='";"', order=ORDER, transparent=True, animated=True)
def test_any_header_selects_a_named_format_or_the_fallback(
    *, accept: str | None, order: tuple[Format, ...], transparent: bool, animated: bool
) -> None:
    fmt = chosen(accept, order=order, transparent=transparent, animated=animated)
    if fmt is not fallback(transparent=transparent, animated=animated):
        assert f"image/{fmt.value}" in (accept or "").lower()
        assert fmt in (AVIF, WEBP)


@given(accept=HEADERS, order=ORDERS, transparent=st.booleans(), animated=st.booleans())
def test_the_same_header_always_gives_the_same_format(
    *, accept: str | None, order: tuple[Format, ...], transparent: bool, animated: bool
) -> None:
    first = chosen(accept, order=order, transparent=transparent, animated=animated)
    assert chosen(accept, order=order, transparent=transparent, animated=animated) is first


@given(st.lists(st.builds(str.__add__, RANGES, st.sampled_from(["", ";q=0.5", ";q=0"]))))
def test_the_order_within_a_header_does_not_matter(elements: list[str]) -> None:
    assert chosen(",".join(elements)) is chosen(",".join(reversed(elements)))


@given(accept=HEADERS, order=ORDERS, excluded=st.sampled_from([AVIF, WEBP]))
def test_a_format_with_q_zero_is_never_selected(
    *, accept: str | None, order: tuple[Format, ...], excluded: Format
) -> None:
    header = f"image/{excluded.value};q=0,{accept or ''}"
    assert chosen(header, order=order) is not excluded


CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen", "why"),
    [
        (CHROME, "avif", "The server prefers AVIF"),
        ("image/webp", "webp", "WebP is the only format"),
        ("image/avif;q=0.5,image/webp", "webp", "by its q-value"),
        ("*/*", "jpeg", "The header names no newer format. Every browser displays JPEG."),
        ("", "jpeg", "no newer format"),
        ("image/avif;q=0,image/*", "jpeg", "no newer format"),
    ],
)
def test_every_choice_has_a_reason(accept: str, chosen: str, why: str) -> None:
    explained = explain(accept, ORDER)
    assert explained["chosen"] == chosen
    assert why in explained["why"]


def test_exactly_the_chosen_format_is_sent() -> None:
    formats = explain(CHROME, ORDER)["formats"]
    assert [one["format"] for one in formats if one["verdict"] == "sent"] == ["avif"]


def test_formats_of_equal_quality_are_listed() -> None:
    assert "accepts AVIF and WebP equally" in explain("image/avif,image/webp", ORDER)["why"]


def test_the_fallback_of_a_transparent_image_is_png() -> None:
    explained = explain("*/*", ORDER, transparent=True)
    assert explained["chosen"] == "png"
    assert [one["format"] for one in explained["formats"]] == ["avif", "webp", "png"]


@pytest.mark.parametrize(
    ("accept", "verdict"),
    [
        ("image/avif;q=0,image/webp", "rejected with q=0"),
        ("*/*", "not named; * and image/* do not count, because old browsers send them too"),
        ("image/avif;q=0.5,image/webp", "accepted, but another format has priority"),
    ],
)
def test_a_format_that_is_not_sent_has_a_verdict(accept: str, verdict: str) -> None:
    assert explain(accept, ORDER)["formats"][0]["verdict"] == verdict


def test_the_fallback_is_marked_if_a_newer_format_is_sent() -> None:
    last = explain("image/webp", ORDER)["formats"][-1]
    assert last["verdict"] == "fallback for browsers that name no newer format"


def test_the_quality_and_the_name_of_each_format_are_reported() -> None:
    avif, webp, _ = explain("image/avif;q=0.5", ORDER)["formats"]
    assert (avif["named"], avif["quality"]) == (True, 0.5)
    assert (webp["named"], webp["quality"]) == (False, 0.0)
