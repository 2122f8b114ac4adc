"""Renditions in memory, limited by bytes; a hit needs no thread and no file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cachetools import LRUCache

from proxy.domain.formats import SNIFF_BYTES
from proxy.domain.variant import Shapes, Variant, has_shape
from proxy.settings import RenditionSettings
from proxy.storage.renditions.disk_state import StoreCounters, WriteRegistry

PIECE_BYTES = 256 * 1024
"""The largest piece of a rendition that is read or sent at once."""

# The memory of an item beside its body (objects and dict entries), so that many tiny renditions
# cannot exceed the limit.
_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True, weakref_slot=True)
class MemoryRendition:
    """A complete rendition in memory.

    A weak reference to it becomes invalid when the store has dropped it and nobody is sending it.
    """

    body: bytes
    tier: str = "memory"

    @property
    def length(self) -> int:
        """Number of bytes of the whole rendition."""
        return len(self.body)

    @property
    def head(self) -> bytes:
        """The first bytes, enough to detect the format."""
        return self.body[:SNIFF_BYTES]

    async def chunks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop`` in pieces of at most 256 KiB."""
        for offset in range(start, stop, PIECE_BYTES):
            yield self.body[offset : min(offset + PIECE_BYTES, stop)]

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class _Item:
    media_id: int
    rendition: MemoryRendition


class _Items(LRUCache[str, _Item]):
    """An LRU cache by bytes that reports its evictions."""

    def __init__(self, max_bytes: int, on_evict: Callable[[str, _Item], None]) -> None:
        super().__init__(max_bytes, lambda item: item.rendition.length + _OVERHEAD_BYTES)
        self._on_evict = on_evict

    def popitem(self) -> tuple[str, _Item]:
        # cachetools calls popitem for evictions only; `pop` does not use it.
        digest, item = super().popitem()
        self._on_evict(digest, item)
        return digest, item


class MemoryStore:
    """A `RenditionStore` in the memory of this process; use it only on the event loop."""

    def __init__(self, settings: RenditionSettings) -> None:
        self._max_item_bytes = min(
            settings.memory_max_item_bytes, settings.memory_max_bytes - _OVERHEAD_BYTES
        )
        self._items = _Items(settings.memory_max_bytes, self._evicted)
        self._digests: dict[int, set[str]] = {}
        self._writes = WriteRegistry()
        self._counters = StoreCounters()

    def __contains__(self, digest: str) -> bool:
        """Return whether a rendition is stored; counts as no use and is thread-safe."""
        return digest in self._items

    def peek(self, digest: str) -> MemoryRendition | None:
        """Return the rendition or None, as `get`, but do not count a miss."""
        item = self._items.get(digest)
        if item is None:
            return None
        self._counters.hits += 1
        return item.rendition

    def record_hit(self) -> None:
        """Count a hit of a caller that holds a weak reference and needs no look-up."""
        self._counters.hits += 1

    async def get(self, variant: Variant) -> MemoryRendition | None:
        """Return the rendition or None; never waits."""
        rendition = self.peek(variant.digest)
        if rendition is None:
            self._counters.misses += 1
        return rendition

    async def first(self, variants: Sequence[Variant]) -> tuple[Variant, MemoryRendition] | None:
        """Return the first of several variants that is stored, or None; never waits."""
        for variant in variants:
            if (rendition := await self.get(variant)) is not None:
                return variant, rendition
        return None

    async def digests(self, media_id: int) -> AbstractSet[str]:
        """Return the digests of a medium's stored variants; does not count as a use."""
        return frozenset(self._digests.get(media_id, ()))

    def fits(self, length: int) -> bool:
        """Return whether a rendition of this length would be stored; an empty one is not."""
        return 0 < length <= self._max_item_bytes

    def put(self, variant: Variant, body: bytes) -> None:
        """Store a rendition and evict the least recently used ones.

        If it does not fit, it is not stored, and an older body of the variant is removed.
        """
        if not self.fits(len(body)):
            # An older body must not be served in place of the new one, which does not fit.
            self._remove(variant)
            return
        self._items[variant.digest] = _Item(variant.media_id, MemoryRendition(body))
        self._digests.setdefault(variant.media_id, set()).add(variant.digest)
        self._counters.writes += 1

    @asynccontextmanager
    async def writer(self, variant: Variant) -> AsyncIterator[MemoryWriter]:
        """Write a rendition; it is stored only if the block ends without an error."""
        with self._writes.ticket(variant) as ticket:
            writer = MemoryWriter(self.fits)
            yield writer
            # A purge during the block voids the ticket: the rendition may show the old source.
            if not ticket.void:
                self.put(variant, b"".join(writer.pieces))

    async def delete(self, variant: Variant) -> None:
        """Delete one rendition if it is stored."""
        self._remove(variant)

    def purge_now(self, media_id: int, shapes: Shapes = None) -> int:
        """Delete the renditions of a medium, void running writes, and return the number deleted."""
        self._writes.purge(media_id, shapes)
        stored = self._digests.get(media_id, ())
        # A list, because `_unlist` changes the set.
        digests = [digest for digest in stored if has_shape(digest, shapes)]
        for digest in digests:
            self._items.pop(digest)
            self._unlist(digest, media_id)
        return len(digests)

    async def purge(self, media_id: int, shapes: Shapes = None) -> int:
        """Call `purge_now`."""
        return self.purge_now(media_id, shapes)

    def statistics(self) -> Mapping[str, Mapping[str, float]]:
        """Return the counts of the tier ``memory``; bytes include the overhead of each item."""
        usage = {"bytes": self._items.currsize, "items": len(self._items)}
        return {"memory": {**usage, **self._counters.flat()}}

    def _remove(self, variant: Variant) -> None:
        if self._items.pop(variant.digest, None) is not None:
            self._unlist(variant.digest, variant.media_id)

    def _evicted(self, digest: str, item: _Item) -> None:
        self._counters.evictions += 1
        self._unlist(digest, item.media_id)

    def _unlist(self, digest: str, media_id: int) -> None:
        digests = self._digests[media_id]
        digests.discard(digest)
        if not digests:
            del self._digests[media_id]


class MemoryWriter:
    """Collects the bytes of a rendition and drops them as soon as they do not fit."""

    def __init__(self, fits: Callable[[int], bool]) -> None:
        self._fits = fits
        self._length = 0
        self.pieces: list[bytes] = []

    async def write(self, chunk: bytes) -> None:
        """Append bytes; never waits."""
        self._length += len(chunk)
        if self._fits(self._length):
            self.pieces.append(chunk)
        else:
            # Released at once; the disk may still store the rendition.
            self.pieces.clear()
