"""The values of an extraction."""

from __future__ import annotations

import orjson
import pytest

from proxy.metadata.extraction import Extraction, join_bulk, split_bulk
from proxy.runtime.deferred_json import dumps


def test_the_advanced_part_is_present_only_if_it_was_computed() -> None:
    basic: dict[str, object] = {"metadata": {}, "quality_metrics": {}, "processing_insights": {}}
    assert Extraction({}, {}, {}).to_dict() == basic
    advanced = {"trailing_bytes": 0}
    assert Extraction({}, {}, {}, advanced).to_dict() == {**basic, "advanced": advanced}


def test_the_bulk_is_joined_again_in_its_place_and_not_parsed() -> None:
    metadata = {
        "format": "png",
        "groups": {"PNG": {"Comment": "two\nlines"}, "XMP-dc": {}},
        "text": [{"keyword": "Comment"}],
        "warnings": [],
    }
    small, bulk = split_bulk(metadata)
    assert small == {**metadata, "groups": ["PNG", "XMP-dc"], "text": None}
    assert not any(b"\n" in one for one in bulk)
    joined = join_bulk(small, bulk)
    assert dumps(joined) == orjson.dumps(metadata)
    parts = (*joined["groups"].values(), joined["text"])
    assert not any("value" in vars(one) for one in parts), "parsed"
    assert split_bulk(joined) == (small, bulk)
    plain = Extraction(joined, {}, {}).parsed().metadata
    assert orjson.dumps(plain) == orjson.dumps(metadata)


@pytest.mark.parametrize("bulk", [[], [b"{}"], [b"{}", b"{}", b"[]"]])
def test_a_bulk_of_another_object_is_refused(bulk: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"unpack|zip"):
        join_bulk({"groups": ["PNG"], "text": None}, bulk)
