"""Values of the image analysis."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict

import pytest

from proxy.domain.image_analysis import Colour, DetectedObject, ProviderGap, VisionResult


def test_a_provider_that_covers_nothing_has_empty_values() -> None:
    result = asdict(VisionResult("google", {"responses": []}))
    assert result.pop("provider") == "google"
    assert result.pop("raw") == {"responses": []}
    assert [name for name, value in result.items() if value] == []


def test_two_results_do_not_share_their_reasons() -> None:
    one, other = VisionResult("google", {}), VisionResult("openai", {})
    assert one.reasons is not other.reasons
    assert one.unsafe is not other.unsafe


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
