"""Metadata of image files: what a file says about itself, and which tool generated it.

`extract` is for scripts; programs that read many files keep a
`proxy.metadata.service.MetadataService` open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from proxy.metadata.extraction import Extraction

__all__ = ["extract", "extract_metadata_from_image"]


def extract(
    path: Path | str,
    *,
    progress: Callable[[int, str], None] | None = None,
    format: Literal["auto"] | str = "auto",  # noqa: A002, PYI051 - the name in the requirements
    streaming: bool = True,
    quality_metrics: bool = True,
) -> Extraction:
    """Return the metadata, quality metrics and processing insights of a file.

    Starts the engines with the settings of the environment, which takes about a second, and stops
    them. ``progress`` is called with per cent and stage. The content of the file decides on its
    format, not ``format``; files are always streamed and always measured.

    Raises:
        SmartserveError: the file cannot be extracted; see `MetadataService.extract`.
        OSError: the file cannot be read.
        RuntimeError: called in an event loop, where `MetadataService` is to be used.
    """
    # Not needed by `embedding`, which does not import the server.
    from proxy.metadata.local_file import extract_file  # noqa: PLC0415
    from proxy.metadata.start import open_metadata  # noqa: PLC0415
    from proxy.settings import load_settings  # noqa: PLC0415

    async def run() -> Extraction:
        settings = load_settings(None)
        async with open_metadata(settings.metadata, settings.workers) as service:
            return await extract_file(
                service, Path(path), progress=progress or (lambda _percent, _stage: None)
            )

    del format, streaming, quality_metrics
    return asyncio.run(run())


def extract_metadata_from_image(path: Path | str) -> Mapping[str, Any]:
    """Return the metadata object of a file: `extract` without quality and insights."""
    return extract(path).metadata
