"""The explanation of a negotiation."""

from __future__ import annotations

import pytest

from proxy.domain.formats import Format
from proxy.domain.negotiation_explained import explain

ORDER = (Format.AVIF, Format.WEBP, Format.JPEG)
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
