"""Deletes temporary upload files that are no longer needed.

A process can be killed between the change of a row and the deletion of its file. The sweep deletes
files whose row has ended, and unfinished files of ended processes. A file without a row is never
deleted: its row may be in another database, if ``main.url`` is wrong, or in a newer copy of this
one. After a week it is moved to ``lost+found``. Rows of ``pending_images`` are not deleted, so that
the outcome of each upload is known to every later sweep.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import structlog

from proxy.domain.errors import UploadStorageError
from proxy.domain.upload import PendingStatus
from proxy.ingest.uploads.upload_queue import UploadQueue
from proxy.runtime.tempfiles import is_stale
from proxy.storage.upload_files import TempName, temp_name

_BATCH = 500
_ENDED = (PendingStatus.COMPLETE, PendingStatus.FAILED)
_LOST_AFTER_S = 7 * 86_400.0

_ADVICE = (
    "No row of pending_images names this file. It is in lost+found now. Is main.url the right"
    " database?"
)

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class TempfileSweeper:
    """Sweeps the upload folders. ``clock`` is the clock of file times."""

    queue: UploadQueue
    clock: Callable[[], float] = time.time
    _seen: frozenset[TempName] = field(default=frozenset(), init=False)
    """Old files without a row in the last run."""

    async def run(self) -> int:
        """Delete what is no longer needed, set old unknown files aside; return how many it deleted.

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
        old = frozenset(
            name for name in unnamed if now - listing.files[name].st_mtime >= _LOST_AFTER_S
        )
        # Seen twice, because the wall clock may jump.
        for name in sorted(old & self._seen):
            if await self._each(self.queue.files.set_aside, name):
                log.warning("unknown_upload_set_aside", image_path=name.image_path, advice=_ADVICE)
        self._seen = old
        removed = sum([await self._each(self.queue.files.remove, name) for name in removable])
        if removed:
            log.info("temporary_files_swept", files=removed)
        return removed

    async def _each(self, work: Callable[[TempName], Awaitable[bool]], name: TempName) -> bool:
        try:
            return await work(name)
        except UploadStorageError as error:
            # One file that cannot be changed must not protect the others from the sweep.
            cause = repr(error.__cause__)
            log.warning("temporary_file_not_swept", image_path=name.image_path, cause=cause)
            return False


def _batches(names: Iterator[TempName]) -> Iterator[list[TempName]]:
    while batch := list(islice(names, _BATCH)):
        yield batch
