"""Tags of generated images, and their aliases."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata.media_tags import tags_of
from proxy.storage.database.metadata_tables import MAX_TAG
from tests.support.generations import of_texts


def test_all_tags_of_a_midjourney_image() -> None:
    found = of_texts({"Description": "a fox --v 6.1 --style raw --q 2"})
    assert tags_of(found) == (
        "generator:midjourney",
        "midjourney:v6.1",
        "style:raw",
        "high-quality",
    )


def test_the_model_is_in_lower_case_and_as_long_as_the_column() -> None:
    text = f"a\nSteps: 20, Seed: 1, Model: RealisticVision{'V' * 300}"
    generator, model = tags_of(of_texts({"parameters": text}))
    assert generator == "generator:stable_diffusion"
    assert model.startswith("model:realisticvisionvvv")
    assert len(model) == MAX_TAG


@pytest.mark.parametrize("generation", [of_texts({}), {}, {"source": "unknown", "mjQuality": 1.5}])
def test_an_image_of_unknown_origin_has_no_tags(generation: dict[str, Any]) -> None:
    assert tags_of(generation) == ()
