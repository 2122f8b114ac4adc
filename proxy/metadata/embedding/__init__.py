"""Names, writes and reads generated images with their metadata. Does not import the server.

```
metadata = ImageMetadataEmbedding(generation_id=create_generation_id(), ...)
path = ImageMetadataWriter().save_with_metadata(image, metadata, "outputs")
ImageMetadataWriter().extract_metadata(path).seed
```
"""

from proxy.metadata.embedding.fields import (
    ImageMetadataEmbedding,
    create_generation_id,
    create_timestamp,
)
from proxy.metadata.embedding.naming import ImageNamingConfig
from proxy.metadata.embedding.result import GenerationMetadata, GenerationResult
from proxy.metadata.embedding.writer import ImageMetadataWriter

__all__ = [
    "GenerationMetadata",
    "GenerationResult",
    "ImageMetadataEmbedding",
    "ImageMetadataWriter",
    "ImageNamingConfig",
    "create_generation_id",
    "create_timestamp",
]
