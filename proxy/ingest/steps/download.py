"""The step retrieve_file: from the main API's temporary file to an original that is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.ingest_item import LeasedItem
from proxy.domain.worker_protocol import ProbeResult
from proxy.ingest.main_api import MainApi
from proxy.runtime.scratch_file import scratch_file
from proxy.serving.source_check import SourceChecker
from proxy.serving.source_facts import to_facts
from proxy.storage.database.ingest_progress import IngestProgress, StoredOriginal
from proxy.storage.originals import OriginalStore
from proxy.storage.originals.naming import original_path


class DownloadStep:
    """Downloads, checks to the last pixel, and files."""

    def __init__(
        self,
        *,
        api: MainApi,
        checker: SourceChecker,
        originals: OriginalStore,
        progress: IngestProgress,
        root: Path,
        changed: Callable[[int], None],
    ) -> None:
        """The rooms it works with; ``root`` is the storage's, ``changed`` hears of a new row."""
        self._api = api
        self._checker = checker
        self._originals = originals
        self._progress = progress
        self._root = root
        self._changed = changed

    async def __call__(self, item: LeasedItem) -> None:
        """Make an upload an original; once it is filed, nothing of it is lost any more."""
        async with scratch_file(self._root) as file:
            await self._api.download(item.upload.image_path, file)
            file.seek(0)
            result = await self._checker.check(file.fileno())
            path = await self._file(item, result, file)
        filed = StoredOriginal(path, SOURCE_MEDIA_TYPES[result.source_type], to_facts(result, path))
        await self._progress.filed(item.lease, filed)
        self._changed(item.lease.media_id)

    async def _file(self, item: LeasedItem, result: ProbeResult, file: BinaryIO) -> str:
        """A file that stands there is this one: a worker was ended before it could say so."""
        path = original_path(item, result.content_hash, result.source_type)
        file.seek(0)
        await self._originals.add(path, file.fileno())
        return path
