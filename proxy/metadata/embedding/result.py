"""The result of a generation, which saves itself with its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.metadata.embedding.fields import (
    UNKNOWN,
    ImageMetadataEmbedding,
    create_generation_id,
    create_timestamp,
)
from proxy.metadata.embedding.naming import ImageNamingConfig
from proxy.metadata.embedding.writer import ImageMetadataWriter

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class GenerationMetadata:
    """The metadata of earlier versions of ml_lib. None is a value that is not known."""

    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    loras_used: Sequence[Any] = ()
    """Mappings, or objects, with ``name`` and ``weight`` or ``alpha``."""
    generation_time_seconds: float | None = None
    peak_vram_gb: float | None = None
    base_model_id: str = UNKNOWN
    pipeline_type: str = UNKNOWN

    def to_image_metadata(
        self, base_model_architecture: str = UNKNOWN, scheduler: str | None = None
    ) -> ImageMetadataEmbedding:
        """Return the metadata to embed, with a new id and the present time.

        Raises:
            ValueError: a value has the wrong type.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["loras_used"] = [_lora(one) for one in self.loras_used]
        return ImageMetadataEmbedding(
            generation_id=create_generation_id(),
            generation_timestamp=create_timestamp(),
            base_model_architecture=base_model_architecture,
            scheduler=scheduler,
            **values,
        )


def _lora(lora: object) -> Mapping[str, Any]:
    keys = ("name", "weight", "alpha")
    values = lora if isinstance(lora, Mapping) else {one: getattr(lora, one, None) for one in keys}
    weight = values.get("weight")
    return {"name": values.get("name"), "weight": values.get("alpha") if weight is None else weight}


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A generated image and what generated it."""

    image: Image.Image
    metadata: ImageMetadataEmbedding | GenerationMetadata

    def save(
        self,
        path: Path | str,
        use_auto_naming: bool = False,  # noqa: FBT001, FBT002 - the requirements call it so
        naming_config: ImageNamingConfig | None = None,
        save_metadata: bool = True,  # noqa: FBT001, FBT002
    ) -> Path:
        """Write the image, and return its path.

        ``path`` is the file; with ``use_auto_naming`` it is the folder. An existing folder together
        with a ``naming_config`` also means that the name is generated.

        Raises:
            FileExistsError, ValueError: as `ImageMetadataWriter.save_with_metadata`.
        """
        path = Path(path)
        named = not use_auto_naming and not (naming_config and path.is_dir())
        if named and path.is_dir():
            raise ValueError(f"{path} is a folder. Give a file, or set use_auto_naming.")
        return ImageMetadataWriter(naming_config).save_with_metadata(
            self.image,
            self._metadata(),
            path.parent if named else path,
            path.name if named else None,
            embed_full_json=save_metadata,
            embed_exif=save_metadata,
        )

    def _metadata(self) -> ImageMetadataEmbedding:
        if isinstance(self.metadata, ImageMetadataEmbedding):
            return self.metadata
        width, height = self.image.size
        known = replace(
            self.metadata,
            width=width if self.metadata.width is None else self.metadata.width,
            height=height if self.metadata.height is None else self.metadata.height,
        )
        return known.to_image_metadata()
