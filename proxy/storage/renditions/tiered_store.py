"""Renditions in memory, then on disk: the store that is served from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.settings import RenditionSettings
from proxy.storage.renditions import Rendition
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.disk_writer import DiskWriter
from proxy.storage.renditions.memory_store import MemoryRendition, MemoryStore, MemoryWriter
from proxy.storage.renditions.purge_log import PurgeEntry


@dataclass(frozen=True, slots=True)
class TieredWriter:
    """A rendition on its way into both tiers."""

    memory: MemoryWriter
    disk: DiskWriter

    async def write(self, chunk: bytes) -> None:
        """Append bytes; what one tier cannot take the other may."""
        await self.memory.write(chunk)
        await self.disk.write(chunk)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a read of the disk gave, for those who waited for it."""

    rendition: MemoryRendition | None
    shared: bool
    """False where each has to read for himself: an open file, or a read that was cancelled."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A read of the disk under way; once its medium is purged nobody may join it."""

    media_id: int
    outcome: asyncio.Future[_Outcome]


class TieredStore:
    """A `RenditionStore` of two tiers, with the background work of the disk.

    A disk hit that fits is promoted; a rendition being made goes to both. ``on_purge`` is called,
    on the loop, with each medium that another process purged, after the memory has let it go.
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
            on_purge=self._forget,
            held=self.memory.__contains__,
            clock=clock,
            monotonic=monotonic,
            supervisor=supervisor,
        )
        self._on_purge = on_purge
        self._reading: dict[str, _Reading] = {}

    async def __aenter__(self) -> Self:
        """As `start`."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """As `aclose`."""
        await self.aclose()

    async def start(self) -> None:
        """Begin the background work; a disk that fails is no reason not to."""
        await self.disk.start()

    async def aclose(self) -> None:
        """End the background work."""
        await self.disk.aclose()

    def peek(self, variant: Variant | str) -> MemoryRendition | None:
        """The rendition of a variant, or of its digest, if it is in memory: at once."""
        return self.memory.peek(variant if isinstance(variant, str) else variant.digest)

    async def get(self, variant: Variant) -> Rendition | None:
        """The rendition from memory or from disk; whoever gets it closes it.

        All who ask for one variant at a time share one read of the disk.
        """
        held = await self.memory.get(variant)
        if held is not None:
            return held
        reading = self._reading.get(variant.digest)
        if reading is None:
            return await self._lead(variant)
        outcome = await asyncio.shield(reading.outcome)
        return outcome.rendition if outcome.shared else await self.disk.get(variant)

    async def contains(self, variant: Variant) -> bool:
        """Whether `get` would probably have it; no use of it."""
        return variant.digest in self.memory or await self.disk.contains(variant)

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Digests of the variants of a medium that either tier has; no use of them."""
        return await self.memory.digests(media_id) | await self.disk.digests(media_id)

    @asynccontextmanager
    async def writer(self, variant: Variant) -> AsyncIterator[TieredWriter]:
        """Take in a rendition as it is made; each tier keeps it only if the block ends well.

        Memory has it before the disk is waited for.
        """
        async with (
            self.disk.writer(variant) as disk,
            self.memory.writer(variant) as memory,
        ):
            yield TieredWriter(memory, disk)

    async def drop(self, variant: Variant) -> None:
        """Let go of one rendition in both tiers; a read of it under way is not promoted."""
        self._reading.pop(variant.digest, None)
        await self.memory.drop(variant)
        await self.disk.drop(variant)

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Drop a medium from both tiers, here and in other processes; gives how many renditions.

        Only those of these ``shapes``, where they are given.

        Raises:
            StorageError: as `DiskStore.purge`; the memory has let go of them.
        """
        dropped = self._drop(media_id, shapes)
        return max(dropped, await self.disk.purge(media_id, shapes))

    async def check(self) -> None:
        """Return when the disk can be written; raises StorageError."""
        await self.disk.check()

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """The counts of ``memory`` and ``disk``."""
        return {**self.memory.statistics(), **self.disk.statistics()}

    async def _lead(self, variant: Variant) -> Rendition | None:
        """Read the disk for oneself and for all who ask meanwhile."""
        digest = variant.digest
        reading = _Reading(variant.media_id, asyncio.get_running_loop().create_future())
        self._reading[digest] = reading
        outcome = _Outcome(None, shared=False)
        try:
            found = await self.disk.get(variant)
            if isinstance(found, MemoryRendition | None):
                outcome = _Outcome(found, shared=True)
            if isinstance(found, MemoryRendition) and self._reading.get(digest) is reading:
                self.memory.put(variant, found.body)
            return found
        finally:
            if self._reading.get(digest) is reading:
                del self._reading[digest]
            reading.outcome.set_result(outcome)

    def _drop(self, media_id: int, shapes: Shapes) -> int:
        own = [digest for digest, read in self._reading.items() if read.media_id == media_id]
        for digest in own:
            if has_shape(digest, shapes):
                del self._reading[digest]
        return self.memory.forget(media_id, shapes)

    def _forget(self, purge: PurgeEntry) -> None:
        self._drop(purge.media_id, purge.shapes)
        if self._on_purge is not None:
            self._on_purge(purge.media_id)
