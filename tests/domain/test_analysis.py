"""Values of an analysis, and how its parts are merged."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import pytest

from proxy.domain.analysis import (
    NO_MODEL,
    PUBLIC_TYPES,
    SAFE_SEARCH,
    Analysis,
    Colour,
    DetectedObject,
    ProviderGap,
    SourceGamut,
    VisionResult,
    merge,
    provider_values,
)
from proxy.domain.perceptual_hash import PerceptualHash
from tests.domain.test_worker_protocol import ANALYSED


def test_a_provider_that_covers_nothing_has_empty_values() -> None:
    result = asdict(VisionResult("google", {"responses": []}))
    assert result.pop("provider") == "google"
    assert result.pop("raw") == {"responses": []}
    assert [name for name, value in result.items() if value] == []


def test_two_results_do_not_share_their_reasons() -> None:
    one, other = VisionResult("google", {}), VisionResult("openai", {})
    assert one.reasons is not other.reasons


def test_a_missing_text_search_differs_from_an_empty_text() -> None:
    assert VisionResult("google", {}).text is None
    assert not VisionResult("google", {}, text="").text


def test_an_object_may_have_no_position() -> None:
    assert DetectedObject("leaf", 0.5).box is None


def test_a_gap_is_permanent_unless_marked() -> None:
    assert not ProviderGap("google", "rejected").temporary


def test_the_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Colour("#33A1FF", 60.0).percent = 1.0  # type: ignore[misc]


GOOGLE = VisionResult(
    "google",
    {"responses": [{}]},
    subject="Macaw, Bird",
    sent_size=(1024, 768),
    objects=(DetectedObject("Parrot", 0.9, (0.1, 0.2, 0.3, 0.4)), DetectedObject("Leaf", 0.5)),
    labels=(DetectedObject("Macaw", 0.98), DetectedObject("Bird", 0.96)),
    logos=(DetectedObject("Kodak", 0.7, (0.0, 0.0, 0.5, 0.5)),),
    safe_search=dict.fromkeys(SAFE_SEARCH, "VERY_UNLIKELY"),
    text="FREE BIRD",
    confidence=0.8,
    reasons={"style": "no styles", "medium": "no media"},
)
MODEL = VisionResult(
    "openai",
    {"choices": []},
    style="Impressionist",
    medium="Oil on Canvas",
    subject="Two macaws.",
    mood_keywords=("Lively", "warm"),
    objects=(DetectedObject("parrot", 0.99), DetectedObject("garden", 0.7)),
    logos=(DetectedObject("KODAK", 0.99), DetectedObject("Leica", 0.4)),
    text="",
    confidence=0.92,
    reasons={"labels": "no labels", "safe_search": "no ratings"},
)
NO_TESSERACT = ProviderGap("tesseract", "tesseract is not installed")


def merged(*answers: VisionResult | ProviderGap, text: Any = NO_TESSERACT, **more: Any) -> Analysis:
    return merge(ANALYSED, answers, text, data_type=more.pop("data_type", "product"), **more)


def test_without_a_model_its_values_are_null_with_a_reason() -> None:
    found = merged().public()
    for name in (
        *("style", "medium", "subject", "confidence_score", "detected_objects"),
        *("labels", "detected_logos", "safe_search"),
    ):
        assert found[name] is None
        assert found["reasons"][name] == NO_MODEL
    assert (found["embedding"], "embedding" in found["reasons"]) == (None, True)
    assert found["detected_text"] is None
    assert found["reasons"]["detected_text"] == "tesseract is not installed"
    assert found["mood_keywords"] == ["warm", "vibrant"]


def test_exactly_the_null_values_have_a_reason() -> None:
    for answers in ([], [GOOGLE], [MODEL], [GOOGLE, MODEL], [ProviderGap("google", "it was down")]):
        found = merged(*answers).public()
        nulls = {name for name, value in found.items() if value is None}
        assert nulls == set(found["reasons"]) - {"google", "openai"}


def test_labels_brands_and_unsafe_content_are_published() -> None:
    found = merged(GOOGLE, MODEL).public()
    assert found["labels"] == [
        {"name": "Macaw", "confidence": 0.98},
        {"name": "Bird", "confidence": 0.96},
    ]
    assert found["detected_logos"] == [
        {"name": "Kodak", "confidence": 0.7, "box": [0.0, 0.0, 0.5, 0.5]},
        {"name": "Leica", "confidence": 0.4, "box": None},
    ]
    assert found["safe_search"] == dict.fromkeys(SAFE_SEARCH, "VERY_UNLIKELY")
    alone = merged(MODEL).public()
    assert (alone["labels"], alone["safe_search"]) == (None, None)
    assert (alone["reasons"]["labels"], alone["reasons"]["safe_search"]) == (
        "no labels",
        "no ratings",
    )
    assert merged(replace(GOOGLE, logos=())).public()["detected_logos"] == []


def test_the_size_of_the_sent_image_is_stored_but_not_published() -> None:
    found = merged(GOOGLE, MODEL)
    assert (found.sent_size("google"), found.sent_size("openai")) == ((1024, 768), None)
    assert "sent" not in found.public()


def test_a_model_precedes_labels() -> None:
    found = merged(GOOGLE, MODEL).public()
    assert (found["style"], found["medium"], found["subject"]) == (
        "Impressionist",
        "Oil on Canvas",
        "Two macaws.",
    )
    assert found["confidence_score"] == 0.92
    assert found["mood_keywords"] == ["lively", "warm", "vibrant"]
    labels = merged(GOOGLE).public()
    assert labels["subject"] == "Macaw, Bird"
    assert labels["reasons"].items() >= {"style": "no styles", "medium": "no media"}.items()


def test_an_object_of_two_providers_is_listed_once_with_its_position() -> None:
    found = merged(GOOGLE, MODEL).columns["detected_objects"]
    assert found == [
        {"name": "Parrot", "confidence": 0.9, "box": [0.1, 0.2, 0.3, 0.4]},
        {"name": "garden", "confidence": 0.7, "box": None},
        {"name": "Leaf", "confidence": 0.5, "box": None},
    ]
    assert merged(replace(GOOGLE, objects=())).columns["detected_objects"] == []


@pytest.mark.parametrize(
    ("answers", "text", "expected"),
    [
        ([GOOGLE, MODEL], "here", "FREE BIRD"),
        ([MODEL], "here", "here"),
        ([replace(MODEL, text="there")], "here", "there"),
        ([MODEL], NO_TESSERACT, ""),
        ([], "", ""),
        ([ProviderGap("google", "down")], "here", "here"),
    ],
)
def test_the_first_text_that_was_found_is_used(
    answers: list[VisionResult | ProviderGap], text: str | ProviderGap, expected: str
) -> None:
    assert merged(*answers, text=text).columns["detected_text"] == expected


def test_a_failed_provider_is_reported() -> None:
    found = merged(ProviderGap("google", "google answered 503"), MODEL)
    assert found.own["reasons"]["google"] == "google answered 503"
    assert found.own["reasons"]["safe_search"] == "google answered 503; no ratings"
    assert found.columns["style_classification"] == "Impressionist"
    assert found.columns["raw_google_response"] is None
    alone = merged(ProviderGap("openai", "the limit is spent"))
    assert alone.own["reasons"]["style"] == "the limit is spent"


def test_the_columns_are_those_of_the_table_as_json() -> None:
    found = merged(GOOGLE, MODEL)
    assert list(found.columns) == [
        "dominant_colors",
        "detected_objects",
        "detected_text",
        "style_classification",
        "medium_detected",
        "subject_matter",
        "quality_score",
        "mood_keywords",
        "confidence_score",
        "raw_google_response",
        "raw_gpt4_response",
    ]
    assert found.columns["quality_score"] == 82
    assert found.columns["raw_gpt4_response"] == {"choices": []}
    assert Analysis(*json.loads(json.dumps([found.columns, found.own]))) == found


def test_the_answer_has_the_fields_of_the_requirements_document() -> None:
    found = merged(GOOGLE, MODEL).public()
    named = {
        *("style", "medium", "quality_score", "mood_keywords", "brand_colors", "site_context"),
        *("dominant_colors", "detected_objects", "confidence_score"),
    }
    assert named <= set(found)
    assert "raw_google_response" not in found


def test_values_from_the_answers_of_another_program_do_not_make_it_outdated() -> None:
    legacy = Analysis({}, provider_values({"google": GOOGLE}))
    assert not legacy.outdated
    assert Analysis({}, {**legacy.own, "kind": {"name": "photo"}}).outdated


def test_an_analysis_of_a_site_without_a_logo_gets_its_class_when_it_is_renewed() -> None:
    stored = merged(GOOGLE, data_type="sites")
    older = replace(stored, own={**stored.own, "site_context": None, "version": 0})
    assert older.renewed(ANALYSED, "sites").own["site_context"] == stored.own["site_context"]


def test_a_text_fits_its_column_and_the_callback() -> None:
    found = merged(replace(GOOGLE, text="語" * 100_000))
    assert len(found.columns["detected_text"].encode()) < 65_535


def test_values_of_another_type_are_left_out_of_the_details() -> None:
    found = merged(GOOGLE, data_type="logo")
    assert set(found.details()) == set(PUBLIC_TYPES)
    assert found.details()["labels"] == found.own["labels"]
    strange = replace(found, own={"labels": "tower", "safe_search": [1]}).details()
    assert (strange["labels"], strange["safe_search"], strange["brand_colors"]) == (None,) * 3
    assert strange["subject"] == "Macaw, Bird"


def test_only_images_of_sites_have_a_site_context() -> None:
    assert merged().public()["site_context"] is None
    brand = {"brand_colors": ["#33A1FF"], "logo_media_id": 7}
    context = merged(data_type="sites", brand=brand).public()["site_context"]
    content_class = {"name": "content", "reason": "why, in words"}
    assert context == {"content_class": content_class, **brand}


def test_only_the_answer_of_a_model_makes_an_analysis_ai_enhanced() -> None:
    assert not merged().ai_enhanced
    assert not merged(text="read by Tesseract").ai_enhanced
    assert not merged(ProviderGap("google", "down")).ai_enhanced
    assert merged(GOOGLE).ai_enhanced
    assert merged(MODEL, ProviderGap("google", "down")).ai_enhanced
    other = {**merged().columns, "style_classification": "Impressionist"}
    assert Analysis(other, {}).ai_enhanced


def test_parts_of_the_quality_that_do_not_count_are_not_shown() -> None:
    drawn = replace(ANALYSED, quality=replace(ANALYSED.quality, exposure=None, contrast=None))
    found = merge(drawn, [], NO_TESSERACT, data_type="logo").public()["quality"]
    assert set(found) == {"score", "sharpness", "noise", "resolution", "blockiness"}


def test_an_analysis_of_another_version_is_outdated() -> None:
    found = merged(MODEL)
    assert not found.outdated
    assert "version" not in found.public()
    assert Analysis(found.columns, {**found.own, "version": 1}).outdated
    old = {name: value for name, value in found.own.items() if name != "version"}
    assert Analysis(found.columns, old).outdated
    assert not Analysis(found.columns, {}).outdated, "the row of another program"
    assert not Analysis(found.columns, {"labels": None}).outdated, "with values of its answers"


def test_a_renewed_analysis_has_the_new_pixels_and_the_old_answers() -> None:
    colours = (Colour("#010203", 100.0),)
    site = merged(MODEL, data_type="sites")
    old = Analysis(site.columns, {**site.own, "version": 1, "phash": "f" * 16})
    kind = replace(ANALYSED.kind, name="logo")
    local = replace(ANALYSED, dominant_colours=colours, brand_colours=colours, kind=kind)
    found = old.renewed(local, "sites")
    assert not found.outdated
    assert found.columns["dominant_colors"] == [{"hex": "#010203", "percent": 100.0}]
    assert found.columns["style_classification"] == "Impressionist"
    assert found.own["brand_colors"] == ["#010203"]
    assert "brand_colors" not in found.own["reasons"]
    assert found.own["phash"] == ANALYSED.phash
    assert found.own["site_context"] == site.own["site_context"]
    fresh = merge(local, [MODEL], NO_TESSERACT, data_type="sites")
    assert found.public() == fresh.public()


def test_the_gamut_is_stored_and_read_again() -> None:
    measured = SourceGamut(0.25, 0.01, gain_map=True)
    stored = merge(replace(ANALYSED, gamut=measured), [], NO_TESSERACT, data_type="product")
    assert SourceGamut.parse(json.loads(json.dumps(stored.own["gamut"]))) == measured
    for other in (None, "srgb", {}, {"outside_srgb": 2, "outside_p3": 0}, {"outside_srgb": 0.1}):
        assert SourceGamut.parse(other) is None


def test_only_the_hash_of_this_version_is_compared() -> None:
    found = merged()
    assert found.perceptual_hash == PerceptualHash.parse(ANALYSED.phash, ANALYSED.phash_mask)
    assert Analysis(found.columns, {**found.own, "version": 1}).perceptual_hash is None
    assert Analysis(found.columns, {}).perceptual_hash is None


def test_only_logos_have_brand_colours() -> None:
    assert merged().public()["brand_colors"] is None
    assert merged(data_type="logo").public()["brand_colors"] == ["#33A1FF"]
