"""Extraction of a file of this machine: the Python function, and the commands."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from proxy.domain.errors import EmptyFile
from proxy.metadata.extraction import PROGRESS, Extraction, ExtractOptions, Progress
from proxy.metadata.service import MetadataService
from proxy.metadata.temp_folder import PIECE_BYTES

MAX_BYTES = 1024**3
"""The limit of all tiers."""


async def extract_file(
    service: MetadataService,
    path: Path,
    *,
    advanced: bool = False,
    progress: Progress = lambda _percent, _stage: None,
) -> Extraction:
    """Extract the metadata of a local file, which is copied first: it may change meanwhile.

    Raises:
        EmptyFile: it has no bytes.
        SmartserveError: see `MetadataService.extract`.
        OSError: the file cannot be read.
    """
    # Not a device or a pipe, which could block for ever.
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with service.new_file(max_bytes=MAX_BYTES) as file:
            while chunk := await asyncio.to_thread(os.read, descriptor, PIECE_BYTES):
                await file.write(chunk)
            if not file.byte_size:
                raise EmptyFile("The file is empty.")
            await file.finish()
            progress(PROGRESS["received"], "received")
            options = ExtractOptions(path.name, advanced=advanced)
            return (await service.extract(file, options, progress=progress)).parsed()
    finally:
        os.close(descriptor)
