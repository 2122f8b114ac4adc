"""The names of ml_lib's metadata system, implemented by smartserve."""

from proxy.metadata.embedding import (
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
