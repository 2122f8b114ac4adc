"""Language tags, and which text fits a wanted language best."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.domain.language import TAG_PATTERN, best_language, canonical_tag


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("de", "de"),
        ("EN-us", "en-US"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("zh-cmn-hans-cn", "zh-cmn-Hans-CN"),
        ("es-419", "es-419"),
        ("sl-ROZAJ-biske-1994", "sl-rozaj-biske-1994"),
        ("de-ch-1901", "de-CH-1901"),
        ("en-US-u-islamcal", "en-US-u-islamcal"),
        ("en-us-X-TWAIN-ab", "en-US-x-twain-ab"),
    ],
)
def test_a_tag_has_one_spelling(text: str, tag: str) -> None:
    assert canonical_tag(text) == tag


@pytest.mark.parametrize(
    "text",
    [
        *("", "e", "german", "de_DE", "de-", "-de", "de--AT", "d€", "de DE", "de\n", "x-whatever"),
        *("i-klingon", "de-AT-AT", "en-u", "de-x-", "\uff44\uff45", "de-x-abcdefghi"),
        "en-" + "x" * 40,
        "de-" + "-".join(["abcde"] * 8),
    ],
)
def test_what_is_no_tag_of_35_characters_is_none(text: str) -> None:
    assert canonical_tag(text) is None


@pytest.mark.slow
@settings(max_examples=40)
@given(st.from_regex(TAG_PATTERN, fullmatch=True).filter(lambda text: len(text) <= 35))
def test_the_described_pattern_is_what_is_accepted(text: str) -> None:
    tag = canonical_tag(text)
    # `$` also matches before a line break at the end.
    assert (tag is None) == text.endswith("\n")
    assert tag is None or (canonical_tag(tag) == tag and re.fullmatch(TAG_PATTERN, tag))


@pytest.mark.parametrize(
    ("texts", "wanted", "best"),
    [
        ({"de", "en"}, "de", "de"),
        ({"de", "en"}, "de-AT", "de"),
        ({"de-AT", "de-CH", "en"}, "de", "de-AT"),
        ({"de-AT", "en"}, "de-CH", "de-AT"),
        ({"de", "en"}, "it", "en"),
        ({"de", "en-GB"}, None, "en-GB"),
        ({"fr", "de"}, "it", "de"),
        ({"zh-Hant"}, "zh-Hant-TW", "zh-Hant"),
        (set(), "de", None),
    ],
)
def test_the_best_text_is_in_the_wanted_language_then_in_the_default_then_the_first(
    texts: set[str], wanted: str | None, best: str | None
) -> None:
    assert best_language(dict.fromkeys(texts, ""), wanted, "en") == best
