"""Renditions in memory first, then on disk: the store that requests use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.settings import RenditionSettings
from proxy.storage.renditions import Rendition, RenditionWriter
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.memory_store import MemoryRendition, MemoryStore
from proxy.storage.renditions.purge_log import PurgeEntry
from proxy.telemetry.tracing import STATE, record, span


@dataclass(slots=True)
class TieredWriter:
    """Writes to both tiers; each ignores what it cannot store."""

    memory: RenditionWriter
    disk: RenditionWriter
    began_at: float | None = None
    """The time.perf_counter of the first bytes."""
    length: int = 0

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        if self.began_at is None:
            self.began_at = time.perf_counter()
        self.length += len(chunk)
        await self.memory.write(chunk)
        await self.disk.write(chunk)


@dataclass(frozen=True, slots=True)
class _Read:
    """A running disk read that other requests for the variant may join until it is purged."""

    media_id: int
    result: asyncio.Future[tuple[bool, MemoryRendition | None]]
    """Whether the result can be shared, and the result."""


class TieredStore:
    """A `RenditionStore` with two tiers; use it with ``async with``.

    A disk hit that fits is promoted to memory, and a new rendition goes to both tiers. ``on_purge``
    is called on the loop with each medium that another process has purged, after it was removed
    from memory.
    """

    def __init__(
        self,
        root: Path,
        settings: RenditionSettings,
        *,
        on_purge: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        self.memory = MemoryStore(settings)
        self.disk = DiskStore(
            root,
            settings,
            on_purge=self._purged_elsewhere,
            in_memory=self.memory.__contains__,
            clock=clock,
            monotonic=monotonic,
            supervisor=supervisor,
        )
        self.check = self.disk.check
        self._on_purge = on_purge
        self._reads: dict[str, _Read] = {}

    async def __aenter__(self) -> Self:
        """Start the background work of the disk; a disk that fails does not raise."""
        await self.disk.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """End the background work."""
        await self.disk.__aexit__(*error)

    async def get(self, variant: Variant) -> Rendition | None:
        """Return the rendition from memory or from disk; the caller closes it.

        Simultaneous calls for one variant share one read of the disk.
        """
        found = await self.first((variant,))
        return None if found is None else found[1]

    async def first(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        """Return the first of several variants that is stored, most wanted first, or None."""
        if STATE.tracer is None:
            return await self._first(variants)
        with span("store read") as part:
            found = await self._first(variants)
            part.set_attribute("smartserve.tier", "none" if found is None else found[1].tier)
            return found

    async def _first(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        missing: list[Variant] = []
        in_memory = None
        for variant in variants:
            rendition = await self.memory.get(variant)
            if rendition is not None:
                in_memory = variant, rendition
                break
            missing.append(variant)
        # A more wanted variant on disk precedes a less wanted one in memory.
        found = await self._first_on_disk(missing) if missing else None
        return found or in_memory

    async def _first_on_disk(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        if not any(variant.digest in self._reads for variant in variants):
            return await self._read_disk(variants)
        # One of them is being read: join that read, and read the others one by one.
        for variant in variants:
            read = self._reads.get(variant.digest)
            if read is None:
                found = await self._read_disk((variant,))
            else:
                # The shield keeps a cancelled waiter from cancelling the future of the others.
                shared, joined = await asyncio.shield(read.result)
                rendition = joined if shared else await self.disk.get(variant)
                found = None if rendition is None else (variant, rendition)
            if found is not None:
                return found
        return None

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of a medium in either tier; does not count as a use."""
        return await self.memory.digests(media_id) | await self.disk.digests(media_id)

    @asynccontextmanager
    async def writer(self, variant: Variant) -> AsyncIterator[TieredWriter]:
        """Write a rendition; each tier stores it only if the block ends without an error."""
        # The memory block is the inner one: the rendition is in memory before the disk is awaited.
        async with (
            self.disk.writer(variant) as disk,
            self.memory.writer(variant) as memory,
        ):
            writer = TieredWriter(memory, disk)
            yield writer
        if STATE.tracer is not None and writer.began_at is not None:
            record("store write", writer.began_at, attributes={"smartserve.bytes": writer.length})

    async def delete(self, variant: Variant) -> None:
        """Delete one rendition from both tiers."""
        # A running read must not promote it after this.
        self._reads.pop(variant.digest, None)
        await self.memory.delete(variant)
        await self.disk.delete(variant)

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete a medium's renditions here and in other processes; return their number.

        Raises:
            StorageError: as `DiskStore.purge`; memory is purged in any case.
        """
        # Memory first: unlike the disk, it cannot fail.
        deleted = self._purge_memory(media_id, shapes)
        return max(deleted, await self.disk.purge(media_id, shapes))

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """Return the counts of ``memory`` and ``disk``."""
        return {**self.memory.statistics(), **self.disk.statistics()}

    async def _read_disk(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        loop = asyncio.get_running_loop()
        reads = {one.digest: _Read(one.media_id, loop.create_future()) for one in variants}
        self._reads |= reads
        # An open file has one owner, a cancelled read has no result, and what follows the found
        # variant was not read: in these cases every waiting request reads the disk itself.
        results: dict[str, tuple[bool, MemoryRendition | None]] = {}
        try:
            found = await self.disk.first(variants)
            for variant in variants:
                if found is None or variant is not found[0]:
                    results[variant.digest] = (True, None)
                    continue
                rendition = found[1]
                if isinstance(rendition, MemoryRendition):
                    results[variant.digest] = (True, rendition)
                    # If it was purged during the read, the read is no longer registered.
                    if self._reads.get(variant.digest) is reads[variant.digest]:
                        self.memory.put(variant, rendition.body)
                break
            return found
        finally:
            for digest, read in reads.items():
                if self._reads.get(digest) is read:
                    del self._reads[digest]
                read.result.set_result(results.get(digest, (False, None)))

    def _purge_memory(self, media_id: int, shapes: Shapes) -> int:
        for digest, read in tuple(self._reads.items()):
            # A read that began before the purge must not promote its result.
            if read.media_id == media_id and has_shape(digest, shapes):
                del self._reads[digest]
        return self.memory.purge_now(media_id, shapes)

    def _purged_elsewhere(self, purge: PurgeEntry) -> None:
        self._purge_memory(purge.media_id, purge.shapes)
        if self._on_purge is not None:
            self._on_purge(purge.media_id)
