"""Renditions in memory first, then on disk, then in a bucket: the store that requests use."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self
from weakref import WeakSet

from proxy.domain.errors import BucketPurgePending
from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.runtime.safe_open import OpenFile
from proxy.runtime.single_flight import SharedResults
from proxy.runtime.supervised_task import UNCOUNTED, TaskSupervisor
from proxy.settings import RenditionSettings
from proxy.storage.renditions.disk_state import (
    NO_OBJECT_TIER,
    OTHER_RENDER_S,
    RENDER_S,
    StoreCounters,
)
from proxy.storage.renditions.disk_store import DiskStore
from proxy.storage.renditions.frequency_sketch import MAX_FREQUENCY
from proxy.storage.renditions.maintenance import Use
from proxy.storage.renditions.rendition import MemoryRendition, Rendition
from proxy.storage.renditions.rendition_file import Found, WriteTicket
from proxy.telemetry.tracing import STATE, record, span

if TYPE_CHECKING:
    # Imports obstore, which a server without buckets does not need.
    from proxy.storage.renditions.object_tier import ObjectTier

# The memory of an item beside its body (objects and dict entries), so that many tiny renditions
# cannot exceed the limit.
_OVERHEAD_BYTES = 512
_MAX_POSTPONED = 100
"""Renditions that one eviction enqueues again because they were used."""
_MIN_QUEUE = 64
_FILE_NAME = attrgetter("file_name")


class _Item:
    """A rendition with what decides when it is evicted."""

    __slots__ = ("base", "file_name", "media_id", "place", "rendition", "size", "uses", "worth")

    def __init__(self, variant: Variant, body: bytes, base: float) -> None:
        self.media_id = variant.media_id
        self.file_name = variant.file_name
        self.rendition = MemoryRendition(body)
        self.size = len(body) + _OVERHEAD_BYTES
        fixed_s, byte_s = RENDER_S.get(self.file_name.rpartition(".")[2], OTHER_RENDER_S)
        self.worth = (fixed_s + byte_s * len(body)) / self.size
        """Processor time that a use saves, for each byte."""
        self.base = base
        self.uses = 1
        self.place = 0
        """Identifies its entry in the queue."""

    @property
    def priority(self) -> float:
        """Of several renditions, the one with the lowest is evicted first."""
        return self.base + min(self.uses, MAX_FREQUENCY) * self.worth


class MemoryStore:
    """Renditions in the memory of this process, limited by bytes; use it on the event loop.

    Eviction is greedy-dual by size and frequency (GDSF; Cherkasova, 1998). The priority of a
    rendition is frequency x render cost / size, plus the priority of the last evicted one when it
    was used last: what is not used falls behind.
    """

    def __init__(
        self,
        settings: RenditionSettings,
        *,
        on_eviction: Callable[[str, int], None] = lambda _digest, _uses: None,
    ) -> None:
        """``on_eviction`` is called with a digest and its number of hits in memory."""
        self._max_bytes = settings.memory_max_bytes
        self._max_item_bytes = min(
            settings.memory_max_item_bytes, settings.memory_max_bytes - _OVERHEAD_BYTES
        )
        self._on_eviction = on_eviction
        self._items: dict[str, _Item] = {}
        self._bytes = 0
        self._base = 0.0
        """Priority of the last evicted rendition."""
        self._queue: list[tuple[float, int, str]] = []
        """Heap of priorities, places and digests. The priority of an item may have risen since: it
        is inserted again when it comes to the top, so a hit costs two assignments. Entries of
        deleted items stay until then. No entry refers to its item: responses hold weak references
        to renditions, which must not outlive a purge."""
        self._places = 0
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
        item.uses += 1
        item.base = self._base
        return item.rendition

    def record_hit(self) -> None:
        """Count a hit of a caller that holds a weak reference and needs no look-up."""
        self.counters.hits += 1

    def digests(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of a medium's stored variants; does not count as a use."""
        return frozenset(self._digests.get(media_id, ()))

    def uses(self) -> list[Use]:
        """Return all renditions with their number of hits."""
        return [Use(one.media_id, one.file_name, one.uses) for one in self._items.values()]

    def put(self, variant: Variant, body: bytes) -> None:
        """Store a rendition and evict those of the lowest priority, unless it is too long."""
        # An older body must not be served in place of a new one that does not fit.
        self.delete(variant)
        if len(body) > self._max_item_bytes:
            return
        item = _Item(variant, body, self._base)
        while self._bytes + item.size > self._max_bytes:
            self._evict()
        # Evictions have raised the base.
        item.base = self._base
        self._items[variant.digest] = item
        self._bytes += item.size
        self._enqueue(variant.digest, item)
        self._digests.setdefault(variant.media_id, set()).add(variant.digest)
        self.counters.writes += 1

    def _enqueue(self, digest: str, item: _Item) -> None:
        if len(self._queue) > 2 * len(self._items) + _MIN_QUEUE:
            # Entries of deleted items have accumulated.
            self._queue = [one for one in self._queue if self._at(one[2], one[1]) is not None]
            heapq.heapify(self._queue)
        # Of equal priorities the oldest comes first.
        self._places += 1
        item.place = self._places
        heapq.heappush(self._queue, (item.priority, item.place, digest))

    def _at(self, digest: str, place: int) -> _Item | None:
        """Return the item of an entry of the queue; None if it was deleted."""
        item = self._items.get(digest)
        return item if item is not None and item.place == place else None

    def _evict(self) -> None:
        """Evict the rendition of the lowest priority."""
        postponed = 0
        while True:
            priority, place, digest = heapq.heappop(self._queue)
            item = self._at(digest, place)
            if item is None:
                continue
            # Used since it was enqueued. Thousands in a row would block the loop for 10 ms.
            if item.priority > priority and postponed < _MAX_POSTPONED:
                self._enqueue(digest, item)
                postponed += 1
                continue
            self._base = priority
            self._remove(digest, item)
            self.counters.evictions += 1
            self._on_eviction(digest, item.uses)
            return

    def delete(self, variant: Variant) -> int:
        """Delete one rendition if it is stored; return its bytes."""
        item = self._items.get(variant.digest)
        if item is None:
            return 0
        self._remove(variant.digest, item)
        return len(item.rendition.body)

    def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete the renditions of a medium, in these shapes or in all; return their number."""
        stored = self._digests.get(media_id, ())
        # A list, because `_remove` changes the set.
        digests = [digest for digest in stored if has_shape(digest, shapes)]
        for digest in digests:
            self._remove(digest, self._items[digest])
        return len(digests)

    def clear(self) -> None:
        """Delete all renditions."""
        self._items.clear()
        self._queue.clear()
        self._digests.clear()
        self._bytes = 0

    def statistics(self) -> Mapping[str, float]:
        """Return counts, bytes and items; bytes include the overhead of each item."""
        return {"bytes": self._bytes, "items": len(self._items), **self.counters.flat()}

    def _remove(self, digest: str, item: _Item) -> None:
        del self._items[digest]
        self._bytes -= item.size
        digests = self._digests[item.media_id]
        digests.discard(digest)
        if not digests:
            del self._digests[item.media_id]


class _Read(NamedTuple):
    """A running disk read that other requests for the same variants may join."""

    media_id: int
    result: asyncio.Future[tuple[bool, tuple[Variant, Rendition] | None]]
    """Whether the result can be shared, and the result."""


class TieredStore:
    """Renditions in two or three tiers; use it with ``async with``.

    A disk hit that fits is promoted to memory, and a new rendition goes to all tiers. What is found
    in a bucket, where only misses of both others are looked up, is promoted to both. A tier that
    fails is a miss or a dropped write, counted, never an error.
    """

    def __init__(
        self,
        root: Path,
        settings: RenditionSettings,
        *,
        clock: Callable[[], float] = time.time,
        supervisor: TaskSupervisor = UNCOUNTED,
        objects: ObjectTier | None = None,
    ) -> None:
        """``objects`` is the third tier, which is used after its own ``async with``."""
        self._objects = objects
        self.skip_objects = False
        """Whether nothing is read from the bucket: all was purged, but the keys are not new yet."""
        self._fetches: SharedResults[tuple[int, bytes] | None] = SharedResults()
        self.memory = MemoryStore(settings, on_eviction=self._record_uses)
        self.disk = DiskStore(
            root,
            settings,
            in_use=self.memory.uses,
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
        await self._fetches.aclose()
        await self.disk.__aexit__(*error)

    async def get(self, variant: Variant) -> Rendition | None:
        """Return the rendition from the first tier that has it, verified; the caller closes it."""
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
        found = await self._on_disk(variants, digests)
        if found is None and self._objects is not None and not self.skip_objects:
            return await self._in_bucket(self._objects, variants)
        return found

    async def _in_bucket(
        self, objects: ObjectTier, variants: Sequence[Variant]
    ) -> tuple[Variant, Rendition] | None:
        # With the number of purges: what was requested before one must not be joined after it.
        key = " ".join((str(self.purges), *(one.digest for one in variants)))
        found = await self._fetches.result(key, partial(self._fetch, objects, variants))
        return found and (variants[found[0]], MemoryRendition(found[1], "disk"))

    async def _fetch(
        self, objects: ObjectTier, variants: Sequence[Variant]
    ) -> tuple[int, bytes] | None:
        # Requested before the read: a purge meanwhile also discards what is being read.
        tickets = [self.ticket(one) for one in variants]
        found = await objects.first(variants)
        if found is None or tickets[found[0]].void:
            return None
        position, body = found
        self.puts += 1
        self.memory.put(variants[position], body)
        await self.disk.put(tickets[position], body)
        return found

    async def recall(self, variants: Sequence[Variant]) -> AbstractSet[str]:
        """Copy what a bucket has of some variants to the other tiers; return their digests."""
        if self._objects is None or self.skip_objects:
            return frozenset()
        found = [one for one in variants if await self._in_bucket(self._objects, (one,))]
        return {one.digest for one in found}

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
        # Of all at once: each name is a hash, which is kept.
        names = tuple(map(_FILE_NAME, variants))
        if first.digest in self.memory:
            return None, True
        try:
            found, exists = self.disk.look_up(first.media_id, names[0])
        except OSError as error:
            return error, True
        if isinstance(found, OpenFile):
            # Too long for memory: `first` opens it again and sends it in pieces.
            found.close()
            found = None
        # What is in a bucket is unknown: `first` requests it.
        elsewhere = self._objects is not None
        return found, exists or elsewhere or any(one.digest in self.memory for one in variants)

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
        if self._objects is not None:
            # A ticket of its own: that of the disk is void after the write.
            self._objects.put(self.ticket(ticket.variant), body)
        await self.disk.put(ticket, body)
        if STATE.tracer is not None:
            record("store write", began, attributes={"smartserve.bytes": len(body)})

    async def delete(self, variant: Variant) -> int:
        """Delete one rendition, which another one has replaced; return its bytes."""
        # A running read must not promote it after this.
        self._unregister_reads(variant.media_id)
        in_memory = self.memory.delete(variant)
        if self._objects is not None:
            self._objects.delete(variant)
        return await self.disk.delete(variant) or in_memory

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete renditions of a medium, in these shapes or in all; return their number.

        Writes that have begun are void.

        Raises:
            BucketPurgePending: some may still exist in the bucket. They are not read, and are
                deleted in the background, so the caller need not repeat it.
            StorageError: some may still exist on disk. Memory is purged.
        """
        # Memory first: unlike the disk, it cannot fail.
        deleted = self._forget(media_id, shapes)
        # Before the disk is awaited: from now on nothing is read from the bucket.
        in_bucket = self._objects and self._objects.begin_purge(media_id, shapes)
        pending: BucketPurgePending | None = None
        try:
            deleted = max(deleted, await self.disk.purge(media_id, shapes))
        finally:
            # Also if the disk fails, or the caller is cancelled. A request meanwhile may have read
            # a file before its deletion.
            self._unregister_reads(media_id, shapes)
            self.memory.purge(media_id, shapes)
            if in_bucket:
                try:
                    deleted = max(deleted, await asyncio.shield(in_bucket))
                except BucketPurgePending as error:
                    pending = error
        # Not above: it would replace the error of a disk whose purge must be repeated.
        if pending is not None:
            raise pending
        return deleted

    async def clear(self) -> None:
        """Delete the renditions of all media from memory and disk; raises StorageError.

        Those in a bucket belong to other servers as well; see `skip_objects`.
        """
        for ticket in self._tickets:
            ticket.void = True
        self._forget_all()
        try:
            await self.disk.clear()
        finally:
            # A request meanwhile may have read a file before it was moved.
            self._forget_all()

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """Return for ``memory`` and ``disk`` bytes, items, hits, misses, failures and others."""
        return {"memory": self.memory.statistics(), "disk": self.disk.statistics()}

    @property
    def bucket_purges_failed(self) -> bool:
        """Whether the bucket may still contain what was purged. A restart forgets what it is."""
        return self._objects is not None and self._objects.purges_failed

    def object_statistics(self) -> Mapping[str, float]:
        """Return the counts of the third tier; zeros if there is none."""
        return NO_OBJECT_TIER if self._objects is None else self._objects.statistics()

    def _record_uses(self, digest: str, times: int) -> None:
        self.disk.record_uses(digest, times)

    def _forget(self, media_id: int, shapes: Shapes) -> int:
        """Void running writes and reads, purge the memory; return the number of renditions."""
        for ticket in self._tickets:
            one = ticket.variant
            if one.media_id == media_id and has_shape(one.digest, shapes):
                ticket.void = True
        self._unregister_reads(media_id, shapes)
        return self.memory.purge(media_id, shapes)

    def _forget_all(self) -> None:
        """Unregister all reads and empty the memory."""
        self.purges += 1
        self._reads.clear()
        self.memory.clear()

    def _unregister_reads(self, media_id: int, shapes: Shapes = None) -> None:
        """Keep running reads from being joined, and their results from being promoted."""
        self.purges += 1
        for digests, read in tuple(self._reads.items()):
            if read.media_id == media_id and any(has_shape(one, shapes) for one in digests):
                del self._reads[digests]
