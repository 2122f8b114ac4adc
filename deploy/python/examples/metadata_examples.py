"""Eight examples of naming images, embedding their metadata, and reading it again.

    PYTHONPATH=deploy/python python deploy/python/examples/metadata_examples.py outputs

Each example writes into the folder and prints what it did.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ml_lib.diffusion.intelligent.pipeline.services.image_metadata import (
    GenerationResult,
    ImageMetadataEmbedding,
    ImageMetadataWriter,
    ImageNamingConfig,
    create_generation_id,
    create_timestamp,
)
from PIL import Image


def metadata_of(prompt: str, **values: object) -> ImageMetadataEmbedding:
    """Return the metadata of a generation; a pipeline knows these values."""
    return ImageMetadataEmbedding(
        generation_id=create_generation_id(),
        generation_timestamp=create_timestamp(),
        prompt=prompt,
        negative_prompt="low quality, blurry",
        seed=42,
        steps=30,
        cfg_scale=7.5,
        width=512,
        height=512,
        sampler="DPM++ 2M",
        **values,
    )


def generated(colour: str) -> Image.Image:
    """Return an image, in place of a generated one."""
    return Image.new("RGB", (512, 512), colour)


def example_1_basic_embedding(outputs: Path) -> None:
    """Embed all parameters; the name has a timestamp and a GUID."""
    metadata = metadata_of(
        "a beautiful sunset over mountains",
        base_model_id="sdxl-base-1.0",
        base_model_architecture="SDXL",
        loras_used=[{"name": "landscape", "weight": 0.8}],
    )
    path = ImageMetadataWriter().save_with_metadata(generated("orange"), metadata, outputs)
    print("1. saved", path.name)


def example_2_descriptive_naming(outputs: Path) -> None:
    """Add the first words of the prompt to the name."""
    writer = ImageMetadataWriter(ImageNamingConfig.descriptive())
    metadata = metadata_of("a beautiful sunset over mountains")
    path = writer.save_with_metadata(generated("red"), metadata, outputs)
    print("2. saved", path.name)


def example_3_guid_only(outputs: Path) -> None:
    """Keep time and prompt out of the name; both are still in the file."""
    writer = ImageMetadataWriter(ImageNamingConfig.guid_only())
    path = writer.save_with_metadata(generated("purple"), metadata_of("a portrait"), outputs)
    print("3. saved", path.name)


def example_4_custom_naming(outputs: Path) -> None:
    """Choose the parts of the name."""
    config = ImageNamingConfig(
        include_prompt_excerpt=True,
        prompt_excerpt_length=20,
        timestamp_format="%Y%m%d",
        separator="-",
    )
    metadata = metadata_of("fantasy landscape with castle")
    path = ImageMetadataWriter(config).save_with_metadata(generated("yellow"), metadata, outputs)
    print("4. saved", path.name)


def example_5_extraction(outputs: Path) -> None:
    """Read the metadata of a saved image: enough to generate it again."""
    writer = ImageMetadataWriter()
    path = writer.save_with_metadata(generated("pink"), metadata_of("a pink house"), outputs)
    found = writer.extract_metadata(path)
    if found is not None:
        print("5. extracted", found.prompt, found.seed, found.steps, found.cfg_scale, found.sampler)


def example_6_sidecar(outputs: Path) -> None:
    """Write the metadata into a file beside the image as well."""
    path = ImageMetadataWriter().save_with_metadata(
        generated("grey"), metadata_of("a grey cat"), outputs, save_sidecar_json=True
    )
    sidecar = path.with_name(f"{path.stem}.metadata.json")
    print("6. saved", sidecar.name, "with", len(json.loads(sidecar.read_text())), "fields")


def example_7_privacy(outputs: Path) -> None:
    """Folders of models, which may name a user, are not embedded. Prompts are."""
    writer = ImageMetadataWriter(ImageNamingConfig.guid_only())
    metadata = metadata_of("a house", base_model_id="/home/alice/models/dream.safetensors")
    path = writer.save_with_metadata(generated("blue"), metadata, outputs)
    found = writer.extract_metadata(path)
    if found is not None:
        print("7. embedded", found.base_model_id, "and the prompt", repr(found.prompt))


def example_8_generation_result(outputs: Path) -> None:
    """Let the result of a generation save itself."""
    result = GenerationResult(generated("green"), metadata_of("a green hill"))
    named = result.save(outputs / "my_custom_name.png")
    automatic = result.save(
        outputs, use_auto_naming=True, naming_config=ImageNamingConfig.descriptive()
    )
    print("8. saved", named.name, "and", automatic.name)


EXAMPLES = (
    example_1_basic_embedding,
    example_2_descriptive_naming,
    example_3_guid_only,
    example_4_custom_naming,
    example_5_extraction,
    example_6_sidecar,
    example_7_privacy,
    example_8_generation_result,
)

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
    for example in EXAMPLES:
        example(folder)
