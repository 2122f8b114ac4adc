"""Extraction of the metadata of media by their rows: for ingest, jobs, sockets and commands."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from proxy.domain.errors import MediaNotFound, SourceMissing
from proxy.domain.media import Media
from proxy.metadata.extraction import PROGRESS, Extraction, ExtractOptions, Progress, Tier
from proxy.metadata.extractor import Extractor
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.storage.database.metadata_store import MetadataStore
from proxy.storage.originals import OriginalReader
from proxy.storage.originals.local_store import OpenSource, translated

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MediaExtractor:
    """Extracts the metadata of media, and stores it."""

    extractor: Extractor
    originals: OriginalReader
    metadata: MetadataStore

    async def extract(
        self,
        media: Media,
        *,
        tier: Tier = Tier.ENTERPRISE,
        advanced: bool = False,
        progress: Progress = lambda _percent, _stage: None,
    ) -> Extraction:
        """Extract the metadata of the original of a medium.

        Raises:
            SourceError: the original cannot be read.
            SmartserveError: see `Extractor.receive` and `Extractor.extract`.
        """
        # Never the processed file if the original is missing: that one has no metadata any more.
        path = media.source_path
        if path is None:
            raise SourceMissing("the medium has no file")
        # The stored file may have another name, and its extension is compared with the content.
        name = media.original_name or PurePosixPath(path).name
        with self.extractor.admitted(), await self.originals.open(path) as source:
            received = self.extractor.receive(
                read_pieces(source), tier=tier, expected_bytes=source.byte_size
            )
            async with received as file:
                progress(PROGRESS["received"], "received")
                options = ExtractOptions(name, advanced=advanced, tier=tier)
                return await self.extractor.extract(file, options, progress=progress)

    async def store(self, media: Media) -> Extraction:
        """Extract the metadata of a medium, and replace what is stored of it.

        Raises:
            MediaNotFound: the medium was deleted meanwhile.
            DatabaseUnavailable: it cannot be stored.
            SmartserveError: see `extract`.
        """
        # With the first file: it imports the detection.
        from proxy.metadata.media_tags import tags_of  # noqa: PLC0415

        extraction = await self.extract(media)
        metadata = extraction.metadata
        if not await self.metadata.save(media.id, metadata, tags_of(metadata["ai_generation"])):
            raise MediaNotFound("the medium was deleted")
        return extraction


async def read_pieces(source: OpenSource) -> AsyncIterator[bytes]:
    """Yield the bytes of an open file.

    Raises:
        SourceError: the storage failed.
    """
    read = partial(os.read, source.descriptor, _PIECE_BYTES)
    while True:
        with translated():
            # The descriptor is closed only when no thread reads from it.
            chunk = await in_daemon_thread(read)
        if not chunk:
            return
        yield chunk
