"""Metadata of a generated image, as in the requirements' quick start."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata.embedding import ImageMetadataEmbedding

VALUES: dict[str, Any] = {
    "generation_id": "a3f2e9d4-b2c1-4a8e-9f3d-1e2a4b5c6d7e",
    "generation_timestamp": "2025-01-11T14:30:22+00:00",
    "prompt": "a beautiful sunset over mountains",
    "negative_prompt": "low quality, blurry",
    "seed": 42,
    "steps": 30,
    "cfg_scale": 7.5,
    "width": 1024,
    "height": 768,
    "sampler": "DPM++ 2M",
}
"""The fields without a default."""


def make(**values: Any) -> ImageMetadataEmbedding:
    return ImageMetadataEmbedding(**{**VALUES, **values})


@pytest.fixture
def metadata() -> ImageMetadataEmbedding:
    return make(base_model_id="sdxl-base-1.0", base_model_architecture="SDXL")
