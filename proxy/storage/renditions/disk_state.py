"""The directory of the disk store: its layout, deletions in it, its usage and its state.

::

    <root>/3f/12345/<digest>.avif    renditions: shard, medium, variant
    <root>/tmp/                      files being written
    <root>/unrecorded/               purges that the database has not accepted yet
    <root>/purged/<token>/3f/        shards of a purge of everything, which are being deleted
    <root>/purged-until              how far the table of purges was applied
    <root>/usage                     what the last survey found, for the other processes

A purge removes one directory. One level of 256 shards is enough: with a million media of one
rendition each (3900 directories per shard, ext4) a hit takes as long as with a few media. Each
directory occupies one block, which usage does not count. The functions that delete block.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import secrets
import stat
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import xxhash

from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.runtime.circuit_breaker import CircuitBreaker
from proxy.settings import RenditionSettings
from proxy.storage.renditions.frequency_sketch import FrequencySketch

SHARDS = 256
_TEMPORARY = "tmp"
BLOCK_BYTES = 4096
_PAUSE_S = 5.0
# A disk that is full below our own limit is filled by another program. Evicting for it is limited
# to once in this time, or the other program would consume the whole cache.
_FORCED_EVERY_S = 60.0

_CODES: Mapping[str, tuple[int, ...]] = {
    "no_space": (errno.ENOSPC, errno.EDQUOT),
    "read_only": (errno.EROFS,),
    "io": (errno.EIO,),
    "descriptors": (errno.EMFILE, errno.ENFILE),
    "permission": (errno.EACCES, errno.EPERM),
    "missing": (errno.ENOENT, errno.ENOTDIR, errno.ESTALE),
    "timeout": (errno.ETIMEDOUT,),
}
_KINDS = {code: kind for kind, codes in _CODES.items() for code in codes}
FAILURE_KINDS = (*_CODES, "too_large", "other")
"""The labels that failures are counted by."""
NO_OBJECT_TIER: Mapping[str, float] = dict.fromkeys(
    (
        *("reads_hit", "reads_miss", "reads_skipped", "writes_stored", "writes_exists"),
        *("dropped_queue_full", "dropped_failed", "dropped_shutdown"),
        *("failures_corrupt", "failures_denied", "failures_missing", "failures_no_bucket"),
        *("failures_timeout", "failures_unavailable", "queued_bytes", "pending_purges"),
    ),
    0,
)
"""Statistics of a third tier that is not used."""


class UsageChange(NamedTuple):
    """A difference of disk usage."""

    bytes: int
    items: int


NO_CHANGE = UsageChange(0, 0)


class Inodes(NamedTuple):
    """Inodes of a file system; both 0 if it creates them as needed."""

    total: int
    free: int


_USAGE = struct.Struct(f"<{2 * SHARDS}q")
_UNSURVEYED_SLACKS = 1.5
"""Bytes that this process writes before it surveys, as a multiple of what an eviction frees. More
than 1: if no other process writes, usage rises above the limit before, and an eviction without a
survey is enough."""
_MIN_EVICTED_INODES = 0.01
"""Part of all inodes that an eviction for inodes frees beyond the limit, so that it is seldom."""
RENDER_S: Mapping[str, tuple[float, float]] = {
    "jpg": (0.016, 0.08e-6),
    "webp": (0.016, 1.2e-6),
    "avif": (0.016, 2.5e-6),
}
"""Processor time of a render by the suffix of its file: seconds for opening and shrinking a source
of 6 megapixels, and seconds for each byte of the result. From renders of 300 and 1200 pixels."""
OTHER_RENDER_S = (0.016, 0.3e-6)


@lru_cache(maxsize=4096)
def shard_of(media_id: int) -> int:
    """Return the shard of a medium, 0 to 255; hashed, so that any series of ids spreads evenly."""
    return int(xxhash.xxh3_64_intdigest(str(media_id).encode()) % SHARDS)


def cost(byte_size: int) -> int:
    """Return the disk space of a file: its size in whole blocks of 4 KiB."""
    # Negated twice, the floor division rounds up.
    return -(-byte_size // BLOCK_BYTES) * BLOCK_BYTES


class RenditionPaths:
    """The paths below a root, as strings for the system calls."""

    def __init__(self, root: str) -> None:
        self.root = root
        # On the same file system as the renditions, so that a complete file can be linked.
        self.temporary = f"{root}/{_TEMPORARY}"
        self.unrecorded = f"{root}/unrecorded"
        self.purged_until = f"{root}/purged-until"
        self.discarded = f"{root}/purged"
        self.usage = f"{root}/usage"

    def shard(self, shard: int) -> str:
        """Return the directory of a shard."""
        return f"{self.root}/{shard:02x}"

    def medium(self, media_id: int) -> str:
        """Return the directory of a medium."""
        return f"{self.root}/{shard_of(media_id):02x}/{media_id}"

    def rendition(self, variant: Variant) -> str:
        """Return the file of a variant."""
        return f"{self.medium(variant.media_id)}/{variant.file_name}"


def delete_entry(path: str) -> UsageChange:
    """Delete whatever exists at the path of a rendition; return the change of usage."""
    file = Path(path)
    try:
        status = file.lstat()
        if stat.S_ISDIR(status.st_mode):
            # Usage never counted it, because a survey counts files only.
            rmtree(file)
            return NO_CHANGE
        file.unlink()
    except FileNotFoundError:
        return NO_CHANGE
    except NotADirectoryError:
        # A file or link occupies the path of the medium's directory.
        file.parent.unlink(missing_ok=True)
        return NO_CHANGE
    return UsageChange(-cost(status.st_size), -1)


def delete_medium(directory: str, shapes: Shapes = None) -> UsageChange:
    """Delete a medium's files, in these shapes or all; return the change of usage."""
    try:
        with os.scandir(directory) as entries:
            paths = [entry.path for entry in entries if has_shape(entry.name, shapes)]
    except (FileNotFoundError, NotADirectoryError):
        return NO_CHANGE
    # One by one and not by rmtree: usage needs the size of each file.
    changes = [delete_entry(path) for path in paths]
    delete_if_empty(directory)
    return UsageChange(sum(one.bytes for one in changes), sum(one.items for one in changes))


def discard_all(paths: RenditionPaths) -> None:
    """Move all shards to where nothing looks for them: 256 renames, however many files there are.

    `discarded` lists them, to be deleted.
    """
    # A missing root means that its file system is away: the files come back with it.
    os.close(os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    folder = Path(paths.discarded, secrets.token_hex(8))
    for shard in range(SHARDS):
        path = Path(paths.shard(shard))
        if path.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            # Another process may have moved it.
            with suppress(FileNotFoundError):
                path.rename(folder / path.name)


def discarded(paths: RenditionPaths) -> list[str]:
    """Return the directories that `discard_all` has moved; delete those that contained them."""
    found = []
    for folder in Path(paths.discarded).glob("*"):
        shards = [str(one) for one in folder.glob("*")]
        found += shards
        if not shards:
            delete_if_empty(str(folder))
    return found


def delete_if_empty(directory: str) -> None:
    """Delete a directory unless it contains files."""
    # rmdir fails if a writer has just put a file there, so no check before it is needed.
    with suppress(OSError):
        os.rmdir(directory)  # noqa: PTH106 - a Path takes longer, and evictions call this often


def failure_kind(error: OSError) -> str:
    """Return the label of an error, one of `FAILURE_KINDS`."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return _KINDS.get(error.errno or 0, "other")


@dataclass(slots=True)
class StoreCounters:
    """Counts events of a tier since its start; changed only on the event loop."""

    hits: int = 0
    misses: int = 0
    writes: int = 0
    evictions: int = 0
    corrupt: int = 0
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAILURE_KINDS, 0))

    def flat(self) -> dict[str, float]:
        """Return the counts by name; failures as ``failures_<kind>``."""
        counts = asdict(self)
        failures = counts.pop("failures")
        return counts | {f"failures_{kind}": count for kind, count in failures.items()}


class DiskUsage:
    """Disk usage by shard.

    A survey corrects one shard at a time, so changes in other shards meanwhile are not lost.
    """

    def __init__(self) -> None:
        self._shards = [NO_CHANGE] * SHARDS
        self.bytes = 0
        self.items = 0

    def add(self, shard: int, change: UsageChange) -> None:
        """Add files that were written or deleted."""
        before = self._shards[shard]
        self.set(shard, UsageChange(before.bytes + change.bytes, before.items + change.items))

    def set(self, shard: int, found: UsageChange) -> None:
        """Replace the usage of a shard by what a survey found."""
        before, self._shards[shard] = self._shards[shard], found
        self.bytes += found.bytes - before.bytes
        self.items += found.items - before.items

    def pack(self) -> bytes:
        """Return the usage of all shards as text of a file."""
        return _USAGE.pack(*(number for shard in self._shards for number in shard))

    def unpack(self, packed: bytes) -> None:
        """Replace the usage of all shards by what `pack` returned; raises ValueError."""
        if len(packed) != _USAGE.size:
            raise ValueError("not a file of usage")
        numbers = _USAGE.unpack(packed)
        for shard in range(SHARDS):
            self.set(shard, UsageChange(*numbers[2 * shard : 2 * shard + 2]))


class DiskState:
    """Usage, counters and circuit breakers of a disk store; changed only on the event loop."""

    def __init__(self, settings: RenditionSettings, *, monotonic: Callable[[], float]) -> None:
        self._high_bytes = settings.disk_max_bytes
        self._low_water = settings.disk_low_water
        self._min_free_inodes = settings.disk_min_free_inodes
        self._monotonic = monotonic
        self._written_bytes = 0
        self._forced = False
        # In the past, so that the first full disk forces an eviction at once.
        self._forced_at = -_FORCED_EVERY_S
        self.usage = DiskUsage()
        self.inodes = Inodes(0, 0)
        """Of the file system, when maintenance last ran."""
        self.frequency = FrequencySketch()
        self.counters = StoreCounters()
        self.reads = CircuitBreaker("rendition_reads", pause_s=_PAUSE_S, clock=monotonic)
        self.writes = CircuitBreaker("rendition_writes", pause_s=_PAUSE_S, clock=monotonic)
        self.maintenance_due = asyncio.Event()
        self.discarded = 0
        """Shards of a purge of everything that are not deleted yet."""

    def record_write(self, shard: int, change: UsageChange) -> None:
        """Count a stored rendition."""
        if self.writes.failing:
            self.writes.succeed()
        self.counters.writes += 1
        self.usage.add(shard, change)
        self._written_bytes += max(0, change.bytes)
        # Other processes may write to the same directory, and only a survey counts their files. It
        # is due when this process alone has written more bytes than an eviction frees.
        unsurveyed = self._written_bytes > _UNSURVEYED_SLACKS * self.slack_bytes
        if self.above_limit or unsurveyed:
            self.maintenance_due.set()

    def record_corrupt(self, shard: int, change: UsageChange) -> None:
        """Count a file that was invalid and deleted."""
        self.counters.corrupt += 1
        self.usage.add(shard, change)

    def record_eviction(self, shard: int, change: UsageChange) -> None:
        """Count evicted files."""
        self.counters.evictions -= change.items
        self.usage.add(shard, change)

    def record_failure(self, error: OSError) -> str:
        """Count a failure and return its kind."""
        kind = failure_kind(error)
        self.counters.failures[kind] += 1
        return kind

    def record_read_failure(self, error: OSError) -> None:
        """Count a failed read; a timeout opens the breaker."""
        # Only a disk that hangs opens the breaker. One bad block does not affect other files.
        if self.record_failure(error) == "timeout":
            self.reads.trip("timeout")

    def record_write_failure(self, error: OSError) -> None:
        """Count a failed write and open the breaker; a full disk makes an eviction due."""
        kind = self.record_failure(error)
        self.writes.trip(kind)
        now = self._monotonic()
        if kind == "no_space" and now - self._forced_at >= _FORCED_EVERY_S:
            self._forced, self._forced_at = True, now
            self.maintenance_due.set()

    def start_survey(self) -> None:
        """Reset what makes maintenance due; writes from now on count for the next round."""
        self._written_bytes = 0
        self.maintenance_due.clear()

    @property
    def above_limit(self) -> bool:
        """Return whether usage is above the high-water mark."""
        return self.usage.bytes > self._high_bytes

    @property
    def slack_bytes(self) -> int:
        """Bytes between the high-water and the low-water mark."""
        return int(self._high_bytes * (1 - self._low_water))

    def bytes_to_free(self) -> int:
        """Return how much to evict, 0 while usage is within the limit. Call it after a survey."""
        need, self._forced = self.expected_to_free(), False
        return need

    def expected_to_free(self) -> int:
        """Return what `bytes_to_free` would return now."""
        used = self.usage.bytes
        # A full disk forces one eviction, although usage is within our own limit.
        if not self.above_limit and not self._forced:
            return 0
        # Above the limit: down to the low-water mark. Below it (the disk is full): the same share
        # of what is used.
        return used - int(self._low_water * min(used, self._high_bytes))

    def files_to_free(self) -> int:
        """Return how many files to evict because the file system has few free inodes."""
        total, free = self.inodes
        wanted = self._min_free_inodes * total
        if free >= wanted:
            return 0
        return min(self.usage.items, math.ceil(wanted - free + _MIN_EVICTED_INODES * total))
