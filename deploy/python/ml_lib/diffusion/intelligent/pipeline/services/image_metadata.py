"""The document's module path for `proxy.metadata.embedding`."""

from ml_lib.diffusion.intelligent.pipeline.services import (
    GenerationMetadata,
    GenerationResult,
    ImageMetadataEmbedding,
    ImageMetadataWriter,
    ImageNamingConfig,
    create_generation_id,
    create_timestamp,
)

__all__ = [
    "GenerationMetadata",
    "GenerationResult",
    "ImageMetadataEmbedding",
    "ImageMetadataWriter",
    "ImageNamingConfig",
    "create_generation_id",
    "create_timestamp",
]
