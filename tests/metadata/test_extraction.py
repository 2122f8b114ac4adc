"""The values of an extraction."""

from __future__ import annotations

from proxy.metadata.extraction import Extraction


def test_the_advanced_part_is_present_only_if_it_was_computed() -> None:
    basic: dict[str, object] = {"metadata": {}, "quality_metrics": {}, "processing_insights": {}}
    assert Extraction({}, {}, {}).to_dict() == basic
    advanced = {"trailing_bytes": 0}
    assert Extraction({}, {}, {}, advanced).to_dict() == {**basic, "advanced": advanced}
