"""The step ``retrieve_file``: stores an upload as an original, after a full check."""

from __future__ import annotations

import os
from dataclasses import dataclass

from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.upload import LeasedItem
from proxy.ingest.main_api import MainApi
from proxy.ingest.steps import StepContext
from proxy.serving.source_check import SourceChecker
from proxy.serving.source_facts import to_facts
from proxy.storage.database.ingest_progress import StoredOriginal
from proxy.storage.originals.local_store import LocalOriginals, original_path


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadStep:
    """Downloads, decodes every pixel, and stores."""

    context: StepContext
    api: MainApi
    checker: SourceChecker
    originals: LocalOriginals

    async def __call__(self, item: LeasedItem) -> None:
        """Store the upload. From the commit on, the image is served."""
        async with self.api.download(item.upload.image_path) as descriptor:
            result = await self.checker.check(descriptor)
            path = original_path(item, result.content_hash, result.source_type)
            # The worker process shares the open file, and has moved its offset.
            os.lseek(descriptor, 0, os.SEEK_SET)
            # The path contains id and content hash. If the file exists, a worker stored it and
            # ended before it could record that.
            await self.originals.add(path, descriptor)
        stored = StoredOriginal(
            path, SOURCE_MEDIA_TYPES[result.source_type], to_facts(result, path)
        )
        await self.context.progress.save_original(item.lease, stored)
        self.context.changed(item.lease.media_id)
