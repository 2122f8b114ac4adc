"""Deletes temporary upload files that are no longer needed.

A process can be killed between the change of a row and the deletion of its file. The sweep deletes
files whose row has ended, files without a row, and unfinished files of ended processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import structlog

from proxy.domain.upload import PendingStatus
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.runtime.tempfiles import is_stale
from proxy.storage.upload_files import TempName, temp_name

_BATCH = 500
_ENDED = (PendingStatus.COMPLETE, PendingStatus.FAILED)

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class TempfileSweeper:
    """Sweeps the upload folders. ``clock`` is the clock of file times."""

    queue: UploadQueue
    clock: Callable[[], float] = time.time
    _seen: frozenset[TempName] = field(default=frozenset(), init=False)
    """Old files without a row in the last run."""

    async def run(self) -> int:
        """Delete what is no longer needed, and return the number of files.

        Raises:
            DatabaseUnavailable, UploadStorageError: the run stopped early.
        """
        listing = await self.queue.files.list_files()
        now = self.clock()
        removable = [name for name, status in listing.unfinished.items() if is_stale(status, now)]
        # Files with other names belong to other programs.
        candidates = (name for name in listing.files if temp_name(name.image_path))
        unnamed: set[TempName] = set()
        for batch in _batches(candidates):
            rows = await self.queue.database.find_by_paths([name.image_path for name in batch])
            removable += [
                name
                for name in batch
                if name.image_path in rows and rows[name.image_path].status in _ENDED
            ]
            unnamed |= {name for name in batch if name.image_path not in rows}
        old = frozenset(name for name in unnamed if is_stale(listing.files[name], now))
        # A file without a row must be an hour old and seen twice: the transaction that adds its row
        # may still be running, and the wall clock may jump.
        removable += old & self._seen
        self._seen = old
        removed = sum([await self.queue.files.remove(name) for name in removable])
        if removed:
            log.info("temporary_files_swept", files=removed)
        return removed


def _batches(names: Iterator[TempName]) -> Iterator[list[TempName]]:
    while batch := list(islice(names, _BATCH)):
        yield batch
