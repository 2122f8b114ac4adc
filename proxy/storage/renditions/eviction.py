"""Counts the files of shards, selects those of least worth and deletes them.

All functions block. The maintenance calls them in its thread, and iterates there, for some
milliseconds at a time.
"""

from __future__ import annotations

import heapq
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
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
from proxy.storage.renditions.rendition_file import USE_RESOLUTION_S, last_use, touch

_SUFFIX = slice(33, None)
"""Of a file name, after the digest and a dot."""
_BATCH = 128
"""Files that are deleted in a row. Then their directories are deleted if they are empty."""
_SORTED = 8192
_MAX_CANDIDATES = 200_000
"""Beyond this number nothing is selected but the need. An entry of a plan has about 0.3 KB: 60 MB
while a survey runs. What is spare afterwards are paths of about 0.15 KB: 30 MB."""


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
    if used > now + USE_RESOLUTION_S:
        used = last_use(status, now)
    fixed_s, byte_s = RENDER_S.get(file_name[_SUFFIX], OTHER_RENDER_S)
    # The access time is exact to an hour, and the clock of a file server may be ahead.
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

    It selects more, up to ``wanted_bytes``, while these are less than `_MAX_CANDIDATES` files. It
    stores only the files it will select, so memory is bounded however many files are added.
    """

    def __init__(self, need_bytes: int, need_files: int = 0, *, wanted_bytes: int = 0) -> None:
        self._need_bytes = need_bytes
        self._need_files = need_files
        self._wanted_bytes = wanted_bytes
        # heapq is a min-heap; the negated worth puts the most valuable file on top. Plain tuples
        # of worth, path and cost take less memory than candidates, and the collector skips them.
        self._heap: list[tuple[float, str, int]] = []
        self._bytes = 0
        self.below = math.inf
        """Only files of less worth are selected from now on."""

    def add(self, worth: float, path: str, size: int) -> None:
        """Consider a file."""
        if worth >= self.below:
            return
        heap = self._heap
        heapq.heappush(heap, (-worth, path, size))
        self._bytes += size
        # The most valuable file is dropped while the others suffice without it.
        while heap and self._suffices(self._bytes - heap[0][2], len(heap) - 1):
            self._bytes -= heapq.heappop(heap)[2]
        if self._suffices(self._bytes, len(heap)):
            self.below = -heap[0][0] if heap else -math.inf

    def _suffices(self, total_bytes: int, files: int) -> bool:
        if total_bytes < self._need_bytes or files < self._need_files:
            return False
        return total_bytes >= self._wanted_bytes or files >= _MAX_CANDIDATES

    def candidates(self) -> Iterator[EvictionCandidate]:
        """Yield the selected files in ascending order of worth."""
        # In parts: while it sorts 100,000 entries at once, no other thread runs for 0.1 s.
        parts = [
            sorted(self._heap[start : start + _SORTED], reverse=True)
            for start in range(0, len(self._heap), _SORTED)
        ]
        for worth, path, size in heapq.merge(*parts, reverse=True):
            yield EvictionCandidate(-worth, path, size)


def enough(
    candidates: Iterable[EvictionCandidate], need_bytes: int, need_files: int = 0
) -> Iterator[EvictionCandidate]:
    """Yield candidates until they meet the needs; the others are not iterated over."""
    if need_bytes <= 0 and need_files <= 0:
        return
    for one in candidates:
        yield one
        need_bytes, need_files = need_bytes - one.cost, need_files - 1
        if need_bytes <= 0 and need_files <= 0:
            return


class SpareCandidates:
    """Files that a survey selected beyond its need, to be evicted later without another survey.

    Only their paths are stored. Each file is inspected again when it is due.
    """

    def __init__(self, candidates: Iterable[EvictionCandidate] = ()) -> None:
        """``candidates`` must be in ascending order of worth."""
        self._paths: deque[str] = deque()
        self._worth = 0.0
        for one in candidates:
            self._paths.append(one.path)
            self._worth = one.worth

    def __len__(self) -> int:
        """Return how many are left."""
        return len(self._paths)

    def candidates(
        self,
        *,
        frequency: Callable[[str], int],
        now: float,
        lstat: Callable[[str], os.stat_result] = os.lstat,
    ) -> Iterator[EvictionCandidate]:
        """Yield the files that still exist, in the order of the survey, and remove them from here.

        A file is skipped if its present worth exceeds that of every candidate at the survey: it was
        used or written since. The next survey considers it again.
        """
        while self._paths:
            path = self._paths.popleft()
            try:
                status = lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                # Purged, or evicted by another process.
                continue
            name = path.rpartition("/")[2]
            worth = worth_of(name, status, now=now) * (1 + frequency(name.partition(".")[0]))
            if worth <= self._worth:
                yield EvictionCandidate(worth, path, cost(status.st_size))


def evict(candidates: Iterable[EvictionCandidate]) -> Iterator[list[EvictionCandidate]]:
    """Delete files and directories that are empty then; yield those that existed, in batches.

    The candidates are iterated over as they are deleted.
    """
    remaining = iter(candidates)
    while batch := list(islice(remaining, _BATCH)):
        yield _delete(batch)


def _delete(batch: Iterable[EvictionCandidate]) -> list[EvictionCandidate]:
    deleted = []
    for one in batch:
        try:
            os.unlink(one.path)  # noqa: PTH108 - a Path for each file takes longer than the deletion
        except FileNotFoundError:
            # It was evicted or purged by another process, and is not counted here.
            continue
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
