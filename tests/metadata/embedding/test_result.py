"""Results that save themselves, and metadata of earlier versions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from proxy.metadata.embedding import (
    GenerationMetadata,
    GenerationResult,
    ImageMetadataEmbedding,
    ImageMetadataWriter,
    ImageNamingConfig,
)
from tests.metadata.embedding.conftest import make

RESULT = GenerationResult(Image.new("RGB", (24, 16)), make())


def extracted(path: Path) -> ImageMetadataEmbedding | None:
    return ImageMetadataWriter().extract_metadata(path)


def test_a_path_is_the_file_and_with_automatic_naming_the_folder(tmp_path: Path) -> None:
    assert RESULT.save(tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    automatic = RESULT.save(str(tmp_path), use_auto_naming=True)
    assert automatic == tmp_path / "20250111_143022_a3f2e9d4.png"
    config = ImageNamingConfig.descriptive()
    described = RESULT.save(tmp_path, use_auto_naming=True, naming_config=config)
    assert described.name == "20250111_143022_beautiful-sunset_a3f2e9d4.png"
    for path in (tmp_path / "new" / "a.png", automatic, described):
        assert extracted(path) == make()


def test_a_naming_configuration_names_images_in_a_folder_that_exists(tmp_path: Path) -> None:
    config = ImageNamingConfig.guid_only()
    named = RESULT.save(tmp_path / "a.png", save_metadata=True, naming_config=config)
    assert named.name == "a.png"
    assert RESULT.save(tmp_path, naming_config=config).stem == make().generation_id


def test_a_folder_without_automatic_naming_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder.*use_auto_naming"):
        RESULT.save(tmp_path)


def test_a_file_that_exists_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"other")
    with pytest.raises(FileExistsError):
        RESULT.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"other"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_an_image_may_be_saved_without_metadata(name: str, tmp_path: Path) -> None:
    content = RESULT.save(tmp_path / name, save_metadata=False).read_bytes()
    assert b"sunset" not in content
    assert "sunset".encode("utf-16-le") not in content


@pytest.mark.parametrize(
    "lora",
    [
        {"name": "detail", "weight": 0.8},
        {"name": "detail", "alpha": 0.8, "source": "civitai"},
        SimpleNamespace(name="detail", alpha=0.8, source="local"),
    ],
)
def test_earlier_metadata_is_converted(lora: Any) -> None:
    old = GenerationMetadata(
        prompt="a cat",
        negative_prompt="dogs",
        seed=7,
        steps=20,
        cfg_scale=6,
        width=64,
        height=32,
        sampler="Euler a",
        loras_used=[lora],
        generation_time_seconds=1.5,
        peak_vram_gb=4,
        base_model_id="dream",
        pipeline_type="intelligent",
    )
    new = old.to_image_metadata(base_model_architecture="SDXL", scheduler="karras")
    other = old.to_image_metadata("SDXL", "karras")
    assert new.generation_id != other.generation_id
    assert new == make(
        generation_id=new.generation_id,
        generation_timestamp=new.generation_timestamp,
        prompt="a cat",
        negative_prompt="dogs",
        seed=7,
        steps=20,
        cfg_scale=6,
        width=64,
        height=32,
        sampler="Euler a",
        scheduler="karras",
        base_model_id="dream",
        base_model_architecture="SDXL",
        loras_used=[{"name": "detail", "weight": 0.8}],
        generation_time_seconds=1.5,
        peak_vram_gb=4,
        pipeline_type="intelligent",
    )


def test_what_earlier_metadata_does_not_know_stays_unknown(tmp_path: Path) -> None:
    old = GenerationMetadata(prompt="a cat", seed=42)
    new = old.to_image_metadata(base_model_architecture="SDXL", scheduler="karras")
    assert (new.steps, new.width, new.sampler, new.clip_skip) == (None, None, None, None)
    found = extracted(GenerationResult(RESULT.image, old).save(tmp_path / "a.png"))
    assert found is not None
    assert (found.prompt, found.seed, found.steps) == ("a cat", 42, None)
    assert (found.width, found.height) == (24, 16), "the image itself has them"
