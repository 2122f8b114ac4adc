"""Counts the files of shards, selects those of least worth and deletes them.

All functions block; the maintenance calls them in its thread for one shard at a time.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from proxy.runtime.tempfiles import files_in
from proxy.storage.renditions.disk_state import (
    BLOCK_BYTES,
    OTHER_RENDER_S,
    RENDER_S,
    SHARDS,
    RenditionPaths,
    UsageChange,
    cost,
    delete_if_empty,
)
from proxy.storage.renditions.rendition_file import USE_RESOLUTION_S, touch

_SUFFIX = slice(33, None)
"""Of a file name, after the digest and a dot."""


class EvictionCandidate(NamedTuple):
    """A rendition file; of several, the one that is worth least is evicted first."""

    worth: float
    path: str
    cost: int

    @property
    def shard(self) -> int:
        """The shard that contains it."""
        return int(self.path.rsplit("/", 3)[1], 16)


def worth_of(file_name: str, status: os.stat_result, *, now: float) -> float:
    """Return render cost / (size x age): the processor time that a byte saves at each use."""
    # All in one function, because a survey calls it for each file.
    length, used = status.st_size, max(status.st_atime, status.st_mtime)
    fixed_s, byte_s = RENDER_S.get(file_name[_SUFFIX], OTHER_RENDER_S)
    # The access time is exact to an hour, and may be in the future.
    age_s = USE_RESOLUTION_S if used > now else now - used + USE_RESOLUTION_S
    return (fixed_s + byte_s * length) / ((length + BLOCK_BYTES) * age_s)


def shards_present(paths: RenditionPaths) -> frozenset[int]:
    """Return the shards that have a directory."""
    return frozenset(shard for shard in range(SHARDS) if Path(paths.shard(shard)).is_dir())


def survey(
    shard: str,
    *,
    plan: EvictionPlan | None = None,
    frequency: Callable[[str], int] = lambda _digest: 0,
    now: float = 0.0,
) -> UsageChange:
    """Return the usage of a shard; delete empty directories, and add its files to a plan.

    ``frequency`` returns how often the file of a digest was used lately.
    """
    total_bytes = total_items = 0
    for path in _media(shard):
        empty = True
        for file, status in files_in(path):
            empty = False
            size = cost(status.st_size)
            total_bytes += size
            total_items += 1
            if plan is None:
                continue
            # A rendition that was never used again was used once.
            worth = worth_of(file.name, status, now=now)
            # Most files are worth too much already: reading the sketch costs more than the rest.
            if worth < plan.below:
                plan.add(worth * (1 + frequency(file.name.partition(".")[0])), file.path, size)
        if empty:
            delete_if_empty(path)
    return UsageChange(total_bytes, total_items)


def record_uses(paths: Iterable[str], *, now: float) -> None:
    """Mark files as used.

    Hits in memory never open the file. Without this its access time would stay old, and the most
    popular renditions would be evicted first.
    """
    for path in paths:
        with suppress(OSError):
            touch(path, os.lstat(path), now)


class EvictionPlan:
    """Selects the files of least worth that together have some bytes and some number.

    It stores only the files it will select, so memory is bounded however many files are added.
    """

    def __init__(self, need_bytes: int, need_files: int = 0) -> None:
        self._need_bytes = need_bytes
        self._need_files = need_files
        self._most_valuable_first: list[tuple[float, EvictionCandidate]] = []
        self._bytes = 0
        self.below = math.inf
        """Only files of less worth are selected from now on."""

    def add(self, worth: float, path: str, size: int) -> None:
        """Consider a file."""
        if worth >= self.below:
            return
        heap = self._most_valuable_first
        # heapq is a min-heap; the negated worth puts the most valuable file on top.
        heapq.heappush(heap, (-worth, EvictionCandidate(worth, path, size)))
        self._bytes += size
        # The most valuable file is dropped while the others suffice without it.
        while heap and self._suffices(heap[0][1].cost, 1):
            self._bytes -= heapq.heappop(heap)[1].cost
        if self._suffices(0, 0):
            self.below = -heap[0][0] if heap else -math.inf

    def _suffices(self, less_bytes: int, less_files: int) -> bool:
        enough = self._bytes - less_bytes >= self._need_bytes
        return enough and len(self._most_valuable_first) - less_files >= self._need_files

    def candidates(
        self, need_bytes: int | None = None, need_files: int = 0
    ) -> list[EvictionCandidate]:
        """Return the files to evict, the one of least worth first.

        With ``need_bytes``, return no more than these needs, which a survey found to be smaller.
        """
        ranked = sorted(one for _, one in self._most_valuable_first)
        if need_bytes is None:
            return ranked
        found: list[EvictionCandidate] = []
        for one in ranked:
            if need_bytes <= 0 and need_files <= 0:
                break
            found.append(one)
            need_bytes, need_files = need_bytes - one.cost, need_files - 1
        return found


def evict(candidates: Iterable[EvictionCandidate]) -> list[EvictionCandidate]:
    """Delete files and directories that are empty then; return the files that existed."""
    deleted = []
    for one in candidates:
        with suppress(FileNotFoundError):
            # A missing file was evicted or purged by another process, and is not counted here.
            os.unlink(one.path)  # noqa: PTH108 - a Path for each file takes longer than the deletion
            deleted.append(one)
    for directory in {one.path.rpartition("/")[0] for one in deleted}:
        delete_if_empty(directory)
    return deleted


def _media(shard: str) -> Iterator[str]:
    """Yield the directories of media in a shard."""
    with suppress(FileNotFoundError), os.scandir(shard) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path
