"""Counts the files of shards, selects the least recently used ones and deletes them.

All functions block; the maintenance calls them in its thread for one shard at a time.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.runtime.tempfiles import files_in
from proxy.storage.renditions.disk_state import (
    SHARDS,
    RenditionPaths,
    UsageChange,
    cost,
    delete_if_empty,
)
from proxy.storage.renditions.rendition_file import last_use, touch


@dataclass(frozen=True, slots=True, order=True)
class EvictionCandidate:
    """A rendition file, ordered by its last use."""

    last_use: float
    path: str
    cost: int

    @property
    def shard(self) -> int:
        """The shard that contains it."""
        return int(self.path.rsplit("/", 3)[1], 16)


def shards_present(paths: RenditionPaths) -> frozenset[int]:
    """Return the shards that have a directory."""
    return frozenset(shard for shard in range(SHARDS) if Path(paths.shard(shard)).is_dir())


def survey(shard: str, *, in_memory: Callable[[str], bool], now: float) -> UsageChange:
    """Return the usage of a shard; delete empty directories."""
    total_bytes = total_items = 0
    for path in _media(shard):
        empty = True
        for file, status in files_in(path):
            empty = False
            total_bytes += cost(status.st_size)
            total_items += 1
            # Hits in memory never open the file. Without this its access time would stay old, and
            # the most popular renditions would be evicted first.
            if in_memory(file.name.partition(".")[0]):
                touch(file.path, status, now)
        if empty:
            delete_if_empty(path)
    return UsageChange(total_bytes, total_items)


def shard_files(shard: str) -> Iterator[EvictionCandidate]:
    """Yield the files of a shard."""
    for path in _media(shard):
        for file, status in files_in(path):
            yield EvictionCandidate(last_use(status), file.path, cost(status.st_size))


class EvictionPlan:
    """Selects the least recently used files that together have ``need`` bytes.

    It stores only the files it will select, so memory is bounded however many files are added.
    """

    def __init__(self, need: int) -> None:
        self._need = need
        self._newest_first: list[tuple[float, EvictionCandidate]] = []
        self._bytes = 0

    def add(self, candidates: Iterable[EvictionCandidate]) -> None:
        """Consider files."""
        for one in candidates:
            # heapq is a min-heap; the negated time puts the newest file on top.
            heapq.heappush(self._newest_first, (-one.last_use, one))
            self._bytes += one.cost
            # The newest file is dropped while the others suffice without it.
            while self._bytes - self._newest_first[0][1].cost >= self._need:
                self._bytes -= heapq.heappop(self._newest_first)[1].cost

    def candidates(self) -> list[EvictionCandidate]:
        """Return the files to evict, least recently used first."""
        return sorted(one for _, one in self._newest_first)


def evict(candidates: Iterable[EvictionCandidate]) -> list[EvictionCandidate]:
    """Delete files and directories that are empty then; return the files that existed."""
    deleted = []
    for one in candidates:
        with suppress(FileNotFoundError):
            # A missing file was evicted or purged by another process, and is not counted here.
            Path(one.path).unlink()
            deleted.append(one)
    for directory in {str(Path(one.path).parent) for one in deleted}:
        delete_if_empty(directory)
    return deleted


def _media(shard: str) -> Iterator[str]:
    """Yield the directories of media in a shard."""
    with suppress(FileNotFoundError), os.scandir(shard) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path
