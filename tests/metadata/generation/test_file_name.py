"""File names are evidence only."""

from __future__ import annotations

import pytest

from tests.support.generations import of_texts

UUID = "0a1b2c3d-1111-2222-3333-444455556666"


@pytest.mark.parametrize(
    "name",
    [
        f"user_a_red_fox_{UUID}_0.png",
        f"user_prompt_{UUID}.webp",
        "ComfyUI_00001_.png",
        "DALL·E 2024-05-01 - a cat.webp",
        "ChatGPT Image 1 May 2025.png",
        "Gemini_Generated_Image_x1.png",
        "../folder/ComfyUI_temp.png",
    ],
)
def test_a_name_of_a_generator_is_weak_evidence_and_sets_no_source(name: str) -> None:
    found = of_texts({}, file_name=name)
    assert (found["source"], found["involvement"], found["confidence"]) == (
        "unknown",
        "none_found",
        0.3,
    )
    assert found["evidence"][0]["class"] == "file_name"


@pytest.mark.parametrize("name", ["", "IMG_0001.jpg", UUID, "x\n-ver", "dalles.png", "a" * 10_000])
def test_other_names_are_no_evidence(name: str) -> None:
    assert of_texts({}, file_name=name)["evidence"] == []
