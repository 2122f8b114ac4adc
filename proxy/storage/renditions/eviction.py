"""Walk the shards: what is there, what was used least recently, and away with it.

Blocking work for the thread of the housekeeping, one shard at a time; the plan itself is pure.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.storage.renditions.file_delete import remove_if_empty
from proxy.storage.renditions.file_read import last_use, touch
from proxy.storage.renditions.paths import SHARDS, RenditionPaths, UsageChange, cost


@dataclass(frozen=True, slots=True, order=True)
class EvictionCandidate:
    """A rendition's file as an eviction sees it."""

    last_use: float
    path: str
    cost: int

    @property
    def shard(self) -> int:
        """The shard it lies in."""
        return int(self.path.rsplit("/", 3)[1], 16)


class DiskUsage:
    """How much is on the disk, kept for each shard.

    A survey sets one shard right at a time, so what comes and goes elsewhere meanwhile counts.
    """

    def __init__(self) -> None:
        self._shards = [UsageChange(0, 0)] * SHARDS
        self.bytes = 0
        self.items = 0

    def add(self, shard: int, change: UsageChange) -> None:
        """Count files that came or went."""
        before = self._shards[shard]
        self.set(shard, UsageChange(before.bytes + change.bytes, before.items + change.items))

    def set(self, shard: int, found: UsageChange) -> None:
        """Set a shard right."""
        before, self._shards[shard] = self._shards[shard], found
        self.bytes += found.bytes - before.bytes
        self.items += found.items - before.items


def shards_present(layout: RenditionPaths) -> frozenset[int]:
    """The shards that have a directory."""
    names = set()
    with suppress(FileNotFoundError), os.scandir(layout.root) as entries:
        names = {entry.name for entry in entries}
    return frozenset(shard for shard in range(SHARDS) if f"{shard:02x}" in names)


def survey(shard: str, *, held: Callable[[str], bool], now: float) -> UsageChange:
    """What a shard holds; on the way, directories left empty go.

    Files that are ``held`` in memory, by digest, count as used: hits in memory never reach them.
    """
    total_bytes = total_items = 0
    for path in _media(shard):
        empty = True
        for file, status in _files(path):
            empty = False
            total_bytes += cost(status.st_size)
            total_items += 1
            if held(file.name.partition(".")[0]):
                touch(file.path, status, now)
        if empty:
            remove_if_empty(path)
    return UsageChange(total_bytes, total_items)


class EvictionPlan:
    """The least recently used files that together make ``need`` bytes, of all that are added.

    It never holds more files than it will give, so a million may pass through.
    """

    def __init__(self, need: int) -> None:
        self._need = need
        self._newest_first: list[tuple[float, EvictionCandidate]] = []
        self._bytes = 0

    def add(self, entries: Iterable[EvictionCandidate]) -> None:
        """Consider files."""
        for entry in entries:
            heapq.heappush(self._newest_first, (-entry.last_use, entry))
            self._bytes += entry.cost
            while self._bytes - self._newest_first[0][1].cost >= self._need:
                self._bytes -= heapq.heappop(self._newest_first)[1].cost

    def add_shard(self, shard: str) -> None:
        """Consider the files of a shard."""
        self.add(_entries(shard))

    def entries(self) -> list[EvictionCandidate]:
        """The files to evict, least recently used first."""
        return sorted(entry for _, entry in self._newest_first)


def evict(entries: Iterable[EvictionCandidate]) -> list[EvictionCandidate]:
    """Delete files, and the directories that are empty then; gives those that were there."""
    gone = []
    for entry in entries:
        with suppress(FileNotFoundError):
            Path(entry.path).unlink()
            gone.append(entry)
    for directory in {str(Path(entry.path).parent) for entry in gone}:
        remove_if_empty(directory)
    return gone


def _media(shard: str) -> Iterator[str]:
    """The directories of media in a shard."""
    with suppress(FileNotFoundError), os.scandir(shard) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path


def _files(directory: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """The files of a medium, but not those that go while this looks."""
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if not entry.is_dir(follow_symlinks=False):
                    yield entry, entry.stat(follow_symlinks=False)


def _entries(shard: str) -> Iterator[EvictionCandidate]:
    for path in _media(shard):
        for file, status in _files(path):
            yield EvictionCandidate(last_use(status), file.path, cost(status.st_size))
