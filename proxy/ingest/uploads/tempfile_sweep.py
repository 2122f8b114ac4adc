"""Tidying: temporary files that nobody needs any more, found and taken away.

So that whatever moment a process is killed at, no file stays for ever: its row tells that it is
done with, or no row names it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import structlog

from proxy.domain.pending_image import PendingStatus
from proxy.runtime.tempfile_owner import STALE_S, StaleTempfileDetector
from proxy.storage.database.upload_repository import SqlMainDatabase
from proxy.storage.upload_files.names import TempName, temp_name
from proxy.storage.upload_files.store import TempFiles

_AT_ONCE = 500
_ENDED = (PendingStatus.COMPLETE, PendingStatus.FAILED)

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class TempfileSweeper:
    """Sweeps the folders of uploads."""

    def __init__(
        self,
        *,
        files: TempFiles,
        database: SqlMainDatabase,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``wall`` is what files are stamped by, ``clock`` is monotonic."""
        self._files = files
        self._database = database
        self._wall = wall
        self._onlooker = StaleTempfileDetector(clock)
        self._seen: frozenset[TempName] = frozenset()

    async def run(self) -> int:
        """Take away what is done with; gives how many files.

        A file that no row names stays for an hour by its stamp, and goes when it is seen a second
        time: its row may be under way, and the clock of the stamps may jump.

        Raises:
            DatabaseUnavailable, UploadStorageError: it cannot be told, or done, now.
        """
        found = await self._files.look()
        gone = [_part(path) for path in self._onlooker.abandoned(found.parts)]
        # Names of another form are none of ours, nor of anybody's who follows the document.
        ours = {name: status for name, status in found.files.items() if temp_name(name.image_path)}
        unnamed: dict[TempName, os.stat_result] = {}
        for names in _batches(ours, _AT_ONCE):
            named = await self._database.named([name.image_path for name in names])
            for name in names:
                row = named.get(name.image_path)
                if row is None:
                    unnamed[name] = ours[name]
                elif row.status in _ENDED:
                    gone.append(name)
        old = {
            name for name, status in unnamed.items() if self._wall() - status.st_mtime >= STALE_S
        }
        gone += [name for name in old if name in self._seen]
        self._seen = frozenset(old)
        return await self._remove(gone)

    async def _remove(self, names: Sequence[TempName]) -> int:
        removed = 0
        for name in names:
            removed += await self._files.remove(name)
        if removed:
            log.info("temporary_files_swept", files=removed)
        return removed


def _part(path: str) -> TempName:
    folder, _, name = path.partition("/")
    return TempName(folder, name)


def _batches(items: dict[TempName, _T], size: int) -> Iterator[list[TempName]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
