"""``deploy/python``: the examples, and the samples of the requirements as printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.metadata.embedding import ImageMetadataWriter
from tests.deploy.programs import DEPLOY
from tests.readme.blocks import blocks

PYTHON = DEPLOY / "python"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{PYTHON}{os.pathsep}{DEPLOY.parent}"}


def run(*arguments: str | Path, script: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        input=script, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_eight_examples_run_and_each_image_has_its_metadata(tmp_path: Path) -> None:
    printed = run(PYTHON / "examples" / "metadata_examples.py", tmp_path).splitlines()
    assert [line[:2] for line in printed] == [f"{number}." for number in range(1, 9)]
    images = sorted(tmp_path.glob("*.png"))
    assert len(images) == 9, "the last one saves two"
    prompts = [ImageMetadataWriter().extract_metadata(path) for path in images]
    assert all(prompts)
    assert len(list(tmp_path.glob("*.metadata.json"))) == 1
    assert "castle" not in printed[3]
    assert "alice" not in printed[6]


QUICK_START = """
from ml_lib.diffusion.intelligent.pipeline.services.image_metadata import (
    ImageMetadataWriter,
    ImageMetadataEmbedding,
    create_generation_id,
    create_timestamp,
)

# Create metadata
metadata = ImageMetadataEmbedding(
    generation_id=create_generation_id(),
    generation_timestamp=create_timestamp(),
    prompt="a beautiful sunset over mountains",
    negative_prompt="low quality, blurry",
    seed=42,
    steps=30,
    cfg_scale=7.5,
    width=1024,
    height=1024,
    sampler="DPM++ 2M",
    base_model_id="sdxl-base-1.0",
    base_model_architecture="SDXL",
)

# Save image with metadata
writer = ImageMetadataWriter()
output_path = writer.save_with_metadata(
    image=my_image,
    metadata=metadata,
    output_dir="/outputs",
)
"""
RESULTS = """
# Method 1: Auto-generated naming
result.save("/outputs", use_auto_naming=True)

# Method 2: Descriptive naming (includes prompt excerpt)
from ml_lib.diffusion.intelligent.pipeline.services import ImageNamingConfig

result.save(
    "/outputs",
    use_auto_naming=True,
    naming_config=ImageNamingConfig.descriptive()
)

# Method 3: Custom filename
result.save("/outputs/my_custom_name.png")
"""
EXTRACTION = """
writer = ImageMetadataWriter()
metadata = writer.extract_metadata("/outputs/image.png")

if metadata:
    print(f"Prompt: {metadata.prompt}")
    print(f"Seed: {metadata.seed}")
    print(f"Model: {metadata.base_model_architecture}")
    print(f"LoRAs: {len(metadata.loras_used)}")
"""
SIDECAR = """
output_path = writer.save_with_metadata(
    image=my_image,
    metadata=metadata,
    output_dir="/outputs",
    save_sidecar_json=True,  # Also save as JSON
)
"""
FILENAME = """
filename = writer.generate_filename(
    metadata=metadata,
    custom_prefix="test",  # Optional prefix
)
"""
LEGACY = """
old_metadata = GenerationMetadata(
    prompt="...",
    seed=42,
    # ... other fields
)

# Convert to new format
new_metadata = old_metadata.to_image_metadata(
    base_model_architecture="SDXL",
    scheduler="karras",
)
"""
MIGRATION = """
result.save(output_path, save_metadata=True)
result.save(output_dir, use_auto_naming=True)
result.save(
    output_path,
    save_metadata=True,
    naming_config=ImageNamingConfig.standard()
)
"""


def sample(text: str, outputs: Path) -> str:
    """Return a sample with another folder in place of /outputs."""
    return text.replace('"/outputs', f'"{outputs}')


def test_the_samples_of_the_requirements_run_as_printed(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    script = "\n".join(
        (
            "from PIL import Image",
            "my_image = Image.new('RGB', (1024, 1024))",
            sample(QUICK_START, outputs),
            "from ml_lib.diffusion.intelligent.pipeline.services import *",
            "result = GenerationResult(my_image, metadata)",
            sample(RESULTS, outputs),
            f"output_path.rename({str(outputs / 'image.png')!r})",
            sample(EXTRACTION, outputs),
            sample(SIDECAR, outputs),
            FILENAME,
            "print(filename)",
            LEGACY,
            "print(new_metadata.scheduler)",
            f"output_dir = {str(tmp_path / 'migrated')!r}",
            "output_path = output_dir + '/before.png'",
            MIGRATION.replace("output_path,\n    save", "output_dir,\n    save"),
        )
    )
    printed = run("-", script=script).splitlines()
    assert printed[:4] == [
        "Prompt: a beautiful sunset over mountains", "Seed: 42", "Model: SDXL", "LoRAs: 0",
    ]  # fmt: skip
    assert printed[4].startswith("test_20")
    assert printed[5:] == ["karras"]
    named = sorted(path.name for path in outputs.iterdir())
    assert len(named) == 6
    assert "my_custom_name.png" in named
    assert sum("beautiful-sunset" in name for name in named) == 1
    assert sum(name.endswith(".metadata.json") for name in named) == 1
    assert len(list((tmp_path / "migrated").iterdir())) == 3


@pytest.mark.parametrize("module", ["ml_lib", "ml_lib.diffusion"])
def test_the_shim_is_not_installed(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        cwd=DEPLOY.parent, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert b"No module named 'ml_lib'" in done.stderr


def test_the_sample_of_the_guide_runs(tmp_path: Path) -> None:
    samples = (one for one in blocks((DEPLOY / "METADATA.md").read_text()) if one.kind == "python")
    (block,) = (one for one in samples if "proxy.metadata.embedding" in one.text)
    code = block.text.replace('"outputs"', repr(str(tmp_path)))
    image = "from PIL import Image\nimage = Image.new('RGB', (8, 8))\n"
    printed = run("-", script=f"{image}{code}\nassert {code.splitlines()[-2]} == 42\nprint(path)")
    assert "beautiful-sunset" in printed
    assert code.splitlines()[-1] == "# 42"
