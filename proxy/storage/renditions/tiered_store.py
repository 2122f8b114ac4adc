"""Renditions in memory first, then on disk: the store that requests use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, Self
from weakref import WeakSet

from cachetools import LRUCache

from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.runtime.safe_open import OpenFile
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.settings import RenditionSettings
from proxy.storage.renditions.disk_state import StoreCounters
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.rendition import MemoryRendition, Rendition
from proxy.storage.renditions.rendition_file import Found, WriteTicket
from proxy.telemetry.tracing import STATE, record, span

# The memory of an item beside its body (objects and dict entries), so that many tiny renditions
# cannot exceed the limit.
_OVERHEAD_BYTES = 512


class _Item(NamedTuple):
    media_id: int
    rendition: MemoryRendition


class MemoryStore:
    """Renditions in the memory of this process, limited by bytes; use it on the event loop."""

    def __init__(self, settings: RenditionSettings) -> None:
        self._max_item_bytes = min(
            settings.memory_max_item_bytes, settings.memory_max_bytes - _OVERHEAD_BYTES
        )
        self._items: LRUCache[str, _Item] = LRUCache(
            settings.memory_max_bytes, lambda item: len(item.rendition.body) + _OVERHEAD_BYTES
        )
        # By medium, so that a purge needs no walk over all items.
        self._digests: dict[int, set[str]] = {}
        self.counters = StoreCounters()

    def __contains__(self, digest: str) -> bool:
        """Return whether a rendition is stored; counts as no use and is thread-safe."""
        return digest in self._items

    def peek(self, digest: str) -> MemoryRendition | None:
        """Return the rendition and count a hit, or None, which the caller may count as a miss."""
        item = self._items.get(digest)
        if item is None:
            return None
        self.counters.hits += 1
        return item.rendition

    def record_hit(self) -> None:
        """Count a hit of a caller that holds a weak reference and needs no look-up."""
        self.counters.hits += 1

    def digests(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of a medium's stored variants; does not count as a use."""
        return frozenset(self._digests.get(media_id, ()))

    def put(self, variant: Variant, body: bytes) -> None:
        """Store a rendition and evict the least recently used ones, unless it is too long."""
        # An older body must not be served in place of a new one that does not fit.
        self.delete(variant)
        if len(body) > self._max_item_bytes:
            return
        size = len(body) + _OVERHEAD_BYTES
        while self._items.currsize + size > self._items.maxsize:
            # Here and not by the cache itself, which reports no evictions.
            digest, item = self._items.popitem()
            self.counters.evictions += 1
            self._unlist(digest, item.media_id)
        self._items[variant.digest] = _Item(variant.media_id, MemoryRendition(body))
        self._digests.setdefault(variant.media_id, set()).add(variant.digest)
        self.counters.writes += 1

    def delete(self, variant: Variant) -> int:
        """Delete one rendition if it is stored; return its bytes."""
        item = self._items.pop(variant.digest, None)
        if item is None:
            return 0
        self._unlist(variant.digest, variant.media_id)
        return len(item.rendition.body)

    def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete the renditions of a medium, in these shapes or in all; return their number."""
        stored = self._digests.get(media_id, ())
        # A list, because `_unlist` changes the set.
        digests = [digest for digest in stored if has_shape(digest, shapes)]
        for digest in digests:
            self._items.pop(digest)
            self._unlist(digest, media_id)
        return len(digests)

    def clear(self) -> None:
        """Delete all renditions."""
        self._items.clear()
        self._digests.clear()

    def statistics(self) -> Mapping[str, float]:
        """Return counts, bytes and items; bytes include the overhead of each item."""
        usage = {"bytes": self._items.currsize, "items": len(self._items)}
        return {**usage, **self.counters.flat()}

    def _unlist(self, digest: str, media_id: int) -> None:
        digests = self._digests[media_id]
        digests.discard(digest)
        if not digests:
            del self._digests[media_id]


class _Read(NamedTuple):
    """A running disk read that other requests for the same variants may join."""

    media_id: int
    result: asyncio.Future[tuple[bool, tuple[Variant, Rendition] | None]]
    """Whether the result can be shared, and the result."""


class TieredStore:
    """Renditions in two tiers; use it with ``async with``.

    A disk hit that fits is promoted to memory, and a new rendition goes to both tiers. A tier that
    fails is a miss or a dropped write, counted, never an error.
    """

    def __init__(
        self,
        root: Path,
        settings: RenditionSettings,
        *,
        clock: Callable[[], float] = time.time,
        supervisor: TaskSupervisor = UNCOUNTED,
    ) -> None:
        self.memory = MemoryStore(settings)
        self.disk = DiskStore(
            root,
            settings,
            in_memory=self.memory.__contains__,
            clock=clock,
            supervisor=supervisor,
        )
        self.check = self.disk.check
        self.run = self.disk.run
        self.read_now = self.disk.read_now
        self.puts = 0
        """Counts new renditions. What was missing before one may be stored now."""
        self.purges = 0
        """Counts deletions. What was read from disk before one may be what it deleted."""
        self._reads: dict[tuple[str, ...], _Read] = {}
        # Weak: a write has ended when nobody has its ticket, neither its task nor a thread.
        self._tickets: WeakSet[WriteTicket] = WeakSet()

    async def __aenter__(self) -> Self:
        """Start the background work of the disk; a disk that fails does not raise."""
        await self.disk.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """End the background work."""
        await self.disk.__aexit__(*error)

    async def get(self, variant: Variant) -> Rendition | None:
        """Return the rendition from memory or from disk, verified; the caller closes it."""
        found = await self.first((variant,))
        return None if found is None else found[1]

    async def first(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        """Return the first stored of several variants of a medium, most wanted first, or None.

        Simultaneous calls for the same variants share one read of the disk.
        """
        if STATE.tracer is None:
            return await self._first(variants)
        with span("store read") as part:
            found = await self._first(variants)
            part.set_attribute("smartserve.tier", "none" if found is None else found[1].tier)
            return found

    async def _first(self, variants: Sequence[Variant]) -> tuple[Variant, Rendition] | None:
        digests = [one.digest for one in variants]
        for position, digest in enumerate(digests):
            rendition = self.memory.peek(digest)
            if rendition is not None:
                # A more wanted variant on disk precedes a less wanted one in memory.
                missing = variants[:position]
                found = await self._on_disk(missing, digests[:position]) if missing else None
                return found or (variants[position], rendition)
            self.memory.counters.misses += 1
        return await self._on_disk(variants, digests)

    async def _on_disk(
        self, variants: Sequence[Variant], digests: Sequence[str]
    ) -> tuple[Variant, Rendition] | None:
        key = tuple(digests)
        read = self._reads.get(key)
        if read is not None:
            # The shield keeps a cancelled waiter from cancelling the future of the others.
            shared, found = await asyncio.shield(read.result)
            if not shared:
                return await self.disk.first(variants)
            # The caller compares variants by identity: it gets its own, not the equal one of the
            # call that it joined.
            return found and (variants[digests.index(found[0].digest)], found[1])
        media_id, loop = variants[0].media_id, asyncio.get_running_loop()
        read = self._reads[key] = _Read(media_id, loop.create_future())
        shared, found = False, None
        try:
            found = await self.disk.first(variants)
            # An open file has one owner, and a cancelled read has no result: in these cases every
            # request that joined reads the disk itself.
            shared = found is None or isinstance(found[1], MemoryRendition)
            # If it was purged during the read, the read is no longer registered.
            if found is not None and found[1].body and self._reads.get(key) is read:
                self.memory.put(found[0], found[1].body)
            return found
        finally:
            if self._reads.get(key) is read:
                del self._reads[key]
            read.result.set_result((shared, found))

    def look_up(self, variants: Sequence[Variant]) -> tuple[Found | OSError, bool]:
        """Read the first of several variants of a medium from disk, in the calling thread.

        Also return whether any of them exists, or one of another recipe, unverified. What is in
        memory is not read.
        """
        first = variants[0]
        if first.digest in self.memory:
            return None, True
        try:
            found, exists = self.disk.look_up(first.media_id, first.file_name)
        except OSError as error:
            return error, True
        if isinstance(found, OpenFile):
            # Too long for memory: `first` opens it again and sends it in pieces.
            found.close()
            found = None
        return found, exists or any(one.digest in self.memory for one in variants)

    def take(
        self, variant: Variant, found: Found | OSError, *, since: int
    ) -> MemoryRendition | None:
        """Return what `look_up` has found, and promote it to memory, as `get` does.

        ``since`` is the value of `purges` before the look-up.
        """
        rendition = self.memory.peek(variant.digest)
        if rendition is not None or found is None:
            return rendition
        rendition = self.disk.record(variant, found)
        if rendition is not None:
            self.memory.counters.misses += 1
            if since == self.purges:
                self.memory.put(variant, rendition.body)
        return rendition

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of a medium that `get` would probably find; counts as no use."""
        return self.memory.digests(media_id) | await self.disk.digests(media_id)

    def ticket(self, variant: Variant) -> WriteTicket:
        """Return the ticket for a `put`; request it before the source is opened.

        A purge of the variant voids it: what began before a purge and ends after it must not bring
        the rendition back.
        """
        ticket = WriteTicket(variant)
        self._tickets.add(ticket)
        return ticket

    async def put(self, ticket: WriteTicket, body: bytes) -> None:
        """Store a complete rendition; an empty one, or one with a void ticket, is not stored."""
        if ticket.void or not body:
            return
        began = time.perf_counter()
        self.puts += 1
        # Memory first: requests find it there while the disk is awaited.
        self.memory.put(ticket.variant, body)
        await self.disk.put(ticket, body)
        if STATE.tracer is not None:
            record("store write", began, attributes={"smartserve.bytes": len(body)})

    async def delete(self, variant: Variant) -> int:
        """Delete one rendition, which another one has replaced; return its bytes."""
        # A running read must not promote it after this.
        self._unregister_reads(variant.media_id)
        in_memory = self.memory.delete(variant)
        return await self.disk.delete(variant) or in_memory

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete renditions of a medium, in these shapes or in all; return their number.

        Writes that have begun are void.

        Raises:
            StorageError: some may still exist on disk; memory is purged in any case.
        """
        # Memory first: unlike the disk, it cannot fail.
        deleted = self._forget(media_id, shapes)
        return max(deleted, await self.disk.purge(media_id, shapes))

    async def clear(self) -> None:
        """Delete the renditions of all media as `purge` does; raises StorageError."""
        for ticket in self._tickets:
            ticket.void = True
        self.purges += 1
        self._reads.clear()
        self.memory.clear()
        await self.disk.clear()

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """Return for ``memory`` and ``disk`` bytes, items, hits, misses, failures and others."""
        return {"memory": self.memory.statistics(), "disk": self.disk.statistics()}

    def _forget(self, media_id: int, shapes: Shapes) -> int:
        """Void running writes and reads, purge the memory; return the number of renditions."""
        for ticket in self._tickets:
            one = ticket.variant
            if one.media_id == media_id and has_shape(one.digest, shapes):
                ticket.void = True
        self._unregister_reads(media_id, shapes)
        return self.memory.purge(media_id, shapes)

    def _unregister_reads(self, media_id: int, shapes: Shapes = None) -> None:
        """Keep running reads from being joined, and their results from being promoted."""
        self.purges += 1
        for digests, read in tuple(self._reads.items()):
            if read.media_id == media_id and any(has_shape(one, shapes) for one in digests):
                del self._reads[digests]
