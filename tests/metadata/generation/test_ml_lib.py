"""The block of ml_lib, which is checked before ComfyUI."""

from __future__ import annotations

import json

import pytest

from tests.support.containers import jpeg_with_comment
from tests.support.generations import known, of_file, of_texts

BLOCK = {
    "generation_id": "a3f2e9d4-b2c1-4a8e-9f3d-1e2a4b5c6d7e",
    "prompt": "a beautiful sunset",
    "negative_prompt": "blurry",
    "seed": 18446744073709551615,
    "steps": 30,
    "cfg_scale": 7.5,
    "sampler": "DPM++ 2M",
    "scheduler": None,
    "base_model_id": "models/sdxl-base-1.0.safetensors",
    "loras_used": [{"name": "detail", "weight": 0.8}, "broken"],
}


def test_the_block_is_read_although_a_prompt_chunk_is_there() -> None:
    found = of_texts({"prompt": "a beautiful sunset", "ml_lib_metadata": BLOCK})
    assert known(
        found, "source", "prompt", "seed", "steps", "cfgScale", "scheduler", "checkpoint"
    ) == {
        "source": "ml_lib",
        "prompt": "a beautiful sunset",
        "seed": "18446744073709551615",
        "steps": 30,
        "cfgScale": 7.5,
        "scheduler": None,
        "checkpoint": "sdxl-base-1.0",
    }
    assert found["loras"] == [{"name": "detail", "weight": 0.8, "hash": None}]
    assert found["confidence"] == 0.9


def test_the_block_in_a_user_comment_is_recognised_by_its_keys() -> None:
    assert of_file(jpeg_with_comment(json.dumps(BLOCK)))["source"] == "ml_lib"
    assert of_file(jpeg_with_comment('{"prompt": "x"}'))["source"] == "unknown"


@pytest.mark.parametrize("block", ["not JSON", "[]", "{", '{"loras_used": 5, "seed": {}}'])
def test_a_damaged_block_is_no_failure(block: str) -> None:
    assert of_texts({"ml_lib_metadata": block})["source"] in ("unknown", "ml_lib")
