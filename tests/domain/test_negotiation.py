"""Content negotiation: which format an Accept header selects, and the reason that is given."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.formats import Format
from proxy.domain.negotiation import acceptable, explain, fallback

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


def test_the_explanation_of_an_animation_names_the_formats_that_move() -> None:
    explained = explain(CHROME, ORDER, animated=True)
    assert explained["chosen"] == "webp"
    verdicts = {one["format"]: one["verdict"] for one in explained["formats"]}
    assert verdicts["avif"] == "not used for animations"
    assert [*verdicts] == ["avif", "webp", "gif"]
    assert "WebP" in explained["why"]


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
