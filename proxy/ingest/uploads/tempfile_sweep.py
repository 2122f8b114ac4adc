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

from proxy.domain.pending_image import PendingStatus
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.runtime.tempfile_owner import STALE_S, StaleTempfileDetector
from proxy.storage.upload_files.names import TempName, temp_name

_BATCH = 500
_ENDED = (PendingStatus.COMPLETE, PendingStatus.FAILED)

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class TempfileSweeper:
    """Sweeps the upload folders. ``wall`` is the clock of file times; ``clock`` is monotonic."""

    queue: UploadQueue
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _stale: StaleTempfileDetector = field(init=False)
    _seen: frozenset[TempName] = field(default=frozenset(), init=False)
    """Old files without a row in the last run."""

    def __post_init__(self) -> None:
        """Create the detector of unfinished files."""
        self._stale = StaleTempfileDetector(self.clock)

    async def run(self) -> int:
        """Delete what is no longer needed, and return the number of files.

        Raises:
            DatabaseUnavailable, UploadStorageError: the run stopped early.
        """
        listing = await self.queue.files.look()
        removable = [TempName(*path.split("/", 1)) for path in self._stale.abandoned(listing.parts)]
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
        old = frozenset(
            name for name in unnamed if self.wall() - listing.files[name].st_mtime >= STALE_S
        )
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
